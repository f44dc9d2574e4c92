"""An id-mapped mount of a workspace (Linux 6.12 and newer): other owners are shown and stored, the workspace is one."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cowfs_daemon.fuse import mount as mounts
from tests.support.mounting import needs_root

from .conftest import Mounted, client

pytestmark = needs_root("maps the ids of a mount")

_libc = ctypes.CDLL(None, use_errno=True)
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_HERE, _CLONE, _CLOEXEC, _EMPTY_PATH, _FROM_EMPTY_PATH, _IDMAP = -100, 1, os.O_CLOEXEC, 0x1000, 4, 0x100000
SHIFT = 100_000
"""Stored ids are shown as so much greater ones."""


def call(number: int, *arguments: object) -> int:
    """A system call that must not fail; raises OSError."""
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def user_namespace(stack: ExitStack) -> int:
    """A descriptor of a user namespace whose ids from 0 on are ours from SHIFT on."""
    inside = subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; cat"], stdin=-1, stdout=-1)
    stack.callback(inside.communicate)
    assert inside.stdout is not None
    assert inside.stdout.readline() == b"\n"
    for which in ("uid_map", "gid_map"):
        Path(f"/proc/{inside.pid}/{which}").write_text(f"0 {SHIFT} 65536")
    fd = os.open(f"/proc/{inside.pid}/ns/user", os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


@pytest.fixture
def mapped(mounted: Mounted, tmp_path: Path) -> Iterator[Path]:
    """The workspace once more, id-mapped."""
    if [int(part) for part in os.uname().release.split(".")[:2]] < [6, 12]:
        pytest.skip("this kernel cannot map the ids of a FUSE mount: Linux 6.12 is needed")
    place = tmp_path / "mapped"
    place.mkdir()
    with ExitStack() as stack:
        tree = call(_OPEN_TREE, _HERE, os.fsencode(mounted.path), _CLONE | _CLOEXEC)
        try:
            attributes = struct.pack("<QQQQ", _IDMAP, 0, 0, user_namespace(stack))
            call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, ctypes.c_size_t(len(attributes)))
            call(_MOVE_MOUNT, tree, b"", _HERE, os.fsencode(place), _FROM_EMPTY_PATH)
            stack.callback(mounts.unmount, str(place))
        finally:
            os.close(tree)  # it would keep the mount busy
        yield place


def owners(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def as_user(uid: int, gid: int, code: str, place: Path) -> None:
    """Run code as somebody else in a directory."""
    begin = f"import os, sys; os.chdir(sys.argv[1]); os.setgroups([]); os.setgid({gid}); os.setuid({uid})\n"
    client(begin + code, place)


def test_owners_are_shown_and_stored_mapped(mounted: Mounted, mapped: Path) -> None:
    top = mounted.path
    (top / "f").write_text("x")
    assert owners(mapped / "f") == (SHIFT, SHIFT)
    make = "open('new', 'w').close(); os.mkdir('dir'); os.symlink('f', 'link'); os.mkfifo('pipe'); os.mknod('dir/file')"
    as_user(SHIFT, SHIFT, make, mapped)
    for name in ("new", "dir", "link", "pipe", "dir/file"):
        assert (owners(top / name), owners(mapped / name)) == ((0, 0), (SHIFT, SHIFT)), name
    os.chown(mapped / "f", SHIFT + 5, SHIFT + 6)
    assert owners(top / "f") == (5, 6)
    os.chmod(top / "f", 0o600)
    as_user(SHIFT + 5, SHIFT + 6, "assert open('f').read() == 'x'; open('f', 'a').write('y')", mapped)
    assert (top / "f").read_text() == "xy"
    with pytest.raises(subprocess.CalledProcessError, match="1"):
        as_user(5, 6, "open('f')", mapped)


def test_who_is_not_mapped_makes_nothing(mounted: Mounted, mapped: Path) -> None:
    """Nor is anything given to such a user."""
    os.chmod(mounted.path, 0o777)
    with pytest.raises(OSError) as caught:
        (mapped / "f").touch()
    assert caught.value.errno == errno.EOVERFLOW
    (mounted.path / "g").touch()
    with pytest.raises(OSError):
        os.chown(mapped / "g", 7, 7)
    assert (owners(mounted.path / "g"), os.listdir(mapped)) == ((0, 0), ["g"])


@pytest.mark.parametrize("change", ["open('f', 'r+').write('y')", "os.truncate('f', 0)", "os.posix_fallocate(f, 0, 9)"])
def test_a_stranger_clears_set_id_bits(mounted: Mounted, mapped: Path, change: str) -> None:
    (mounted.path / "f").write_text("x")
    os.chown(mounted.path / "f", 5, 6)
    os.chmod(mounted.path / "f", 0o6766)
    as_user(SHIFT + 9, SHIFT + 9, f"f = os.open('f', os.O_RDWR); {change}", mapped)
    assert stat.S_IMODE((mounted.path / "f").stat().st_mode) == 0o766


def test_a_checkpoint_and_a_restore_are_of_the_one_workspace(mounted: Mounted, mapped: Path) -> None:
    as_user(SHIFT, SHIFT, "open('f', 'w').write('first')", mapped)
    one = mounted.checkpoint()
    as_user(SHIFT, SHIFT, "open('f', 'w').write('second'); os.rename('f', 'g')", mapped)
    mounted.restore(one)
    assert ((mapped / "f").read_text(), os.listdir(mapped)) == ("first", ["f"])


@pytest.mark.parametrize(("group", "keeps"), [(SHIFT + 6, False), (6, True)])
def test_set_group_id_without_group_execute_is_judged_by_stored_groups(
    mounted: Mounted, mapped: Path, group: int, keeps: bool
) -> None:
    """docs/posix.md, "Who asks": which groups are shown for them by this mount, the requests do not say."""
    (mounted.path / "f").write_text("x")
    os.chown(mounted.path / "f", 5, 6)
    os.chmod(mounted.path / "f", 0o2766)
    as_user(SHIFT + 9, group, "open('f', 'r+').write('y')", mapped)
    assert bool((mounted.path / "f").stat().st_mode & stat.S_ISGID) == keeps
