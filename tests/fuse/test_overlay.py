"""overlayfs on directories of a workspace: lower, upper and work."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cowfs_daemon.fuse import mount as mounts
from tests.support.mounting import mounts_inside

from .conftest import Mounted, client

_libc = ctypes.CDLL(None, use_errno=True)

Overlay = Callable[[str], Path]


@pytest.fixture
def overlay(mounted: Mounted, tmp_path: Path) -> Iterator[Overlay]:
    """Mounts an overlay of the workspace's directories ``lower``, ``upper`` and ``work`` with more options."""
    merged = tmp_path / "merged"
    merged.mkdir()
    for name in ("lower", "upper", "work"):
        (mounted.path / name).mkdir()
    with ExitStack() as stack:

        def mount(more: str) -> Path:
            places = ",".join(f"{name}dir={mounted.path / name}" for name in ("lower", "upper", "work"))
            if _libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, f"{places}{more}".encode()):
                number = ctypes.get_errno()
                pytest.fail(f"overlayfs refuses the workspace: {os.strerror(number)}")
            stack.callback(mounts.unmount, str(merged))
            return merged

        yield mount


CHANGES = """if True:
    import os, sys
    os.chdir(sys.argv[1])
    assert open("kept").read() == "lower"
    open("kept", "a").write(" and more")
    os.unlink("gone")
    os.rename("old", "new")
    os.unlink("dir/inside")
    os.rmdir("dir")
    os.mkdir("dir")
    open("dir/again", "w").write("again")
    os.chmod("meta", 0o600)
    os.setxattr("meta", "user.a", b"1")
    os.symlink("kept", "link")
    os.link("kept", "hard")
    assert sorted(os.listdir(".")) == ["dir", "hard", "kept", "link", "meta", "new", "tree"]
    assert os.listdir("dir") == ["again"]
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"unnamed")
"""


@mounts_inside
@pytest.mark.parametrize("more", ["", ",redirect_dir=on,index=off", ",redirect_dir=on,index=on,metacopy=on"])
def test_copy_up_whiteouts_and_opaque_directories(mounted: Mounted, overlay: Overlay, more: str) -> None:
    lower, upper = mounted.path / "lower", mounted.path / "upper"
    for name in ("kept", "gone", "old", "meta"):
        (lower / name).write_text("lower")
    for name in ("dir", "tree"):
        (lower / name).mkdir()
        (lower / name / "inside").write_text("inside")
    merged = overlay(more)
    client(CHANGES, merged)
    assert (merged / "kept").read_text() == "lower and more"
    assert (lower / "kept").read_text() == "lower"
    for name in ("gone", "old"):
        status = (upper / name).lstat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert os.getxattr(upper / "dir", "trusted.overlay.opaque") == b"y"
    if not more:
        return
    client("import os, sys; os.chdir(sys.argv[1]); os.rename('tree', 'moved')", merged)
    assert os.getxattr(upper / "moved", "trusted.overlay.redirect") == b"tree"
    assert (merged / "moved" / "inside").read_text() == "inside"


@mounts_inside
def test_whiteouts_come_back_with_a_restore(mounted: Mounted, overlay: Overlay) -> None:
    (mounted.path / "lower" / "f").write_text("lower")
    merged = overlay("")
    (merged / "f").unlink()
    mounts.unmount(str(merged))
    gone = mounted.checkpoint()
    (mounted.path / "upper" / "f").unlink()
    mounted.restore(gone)
    assert not (overlay("") / "f").exists()
