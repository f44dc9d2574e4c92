"""Rarer uses of a workspace in the foreground: subtrees, handles, overlays, and calls that nobody answers."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from cowfs_daemon.fuse import mount
from tests.conformance import calls
from tests.support.foreground import Foreground
from tests.support.mounting import by_handle, mounts_inside
from tests.support.treehash import hash_directory

pytestmark = [pytest.mark.fuse]

GETFLAGS = 0x80086601
IN_DELETE_SELF, IN_IGNORED = 0x400, 0x8000


def plant(top: Path) -> None:
    """A tree with some of everything."""
    (top / "d" / "deep").mkdir(parents=True)
    for number in range(300):
        (top / "d" / "deep" / f"f{number}").write_bytes(b"%d" % number)
    (top / "big").write_bytes(os.urandom(3 << 20))
    os.link(top / "big", top / "d" / "hard")
    (top / "watched").touch()
    os.symlink("big", top / "soft")


def test_subtrees_are_cloned_and_removed_for_everybody(foreground: Foreground, top: Path) -> None:
    plant(top / "a")
    assert not (top / "b").exists()  # the kernel knows now that there is none
    assert os.listdir(top) == ["a"]
    foreground.live.cowfs("clone", "ws:a", "b")
    assert sorted(os.listdir(top)) == ["a", "b"]
    assert hash_directory(top / "a") == hash_directory(top / "b")
    (top / "b" / "big").write_bytes(b"changed")
    assert (top / "b" / "d" / "hard").read_bytes() == b"changed"
    assert (top / "a" / "big").stat().st_size == 3 << 20
    os.link(top / "a" / "big", top / "kept")
    names = [path for path in (top / "a").rglob("*") if path.lstat()]  # all of them known to the kernel
    inside = os.open(top / "a" / "d", os.O_RDONLY | os.O_DIRECTORY)
    watch = calls.watch(os.fsencode(top / "a" / "watched"), IN_DELETE_SELF)
    with (top / "a" / "d" / "deep" / "f299").open("r+b", buffering=0) as held:
        foreground.live.cowfs("rm", "ws:a")
        assert sorted(os.listdir(top)) == ["b", "kept"]
        assert not any(os.path.lexists(path) for path in names)
        assert (top / "kept").stat().st_nlink == 1
        assert os.listdir(inside) == []
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
        assert (held.read(), os.fstat(held.fileno()).st_nlink) == (b"299", 0)
        assert held.write(b" goes on") == 8
    assert calls.events(watch) == [(IN_DELETE_SELF, ""), (IN_IGNORED, "")]
    os.close(watch)
    os.close(inside)
    (top / "a").mkdir()
    assert os.listdir(top / "a") == []


def forged(ino: int) -> bytes:
    """A handle as the kernel makes it of an inode number."""
    return struct.pack("<IiIII", 12, 0x81, 0, ino, 0)


@by_handle
def test_a_handle_opens_what_the_kernel_does_not_know(foreground: Foreground, top: Path) -> None:
    (top / "d").mkdir()
    (top / "d" / "f").write_text("content")
    handle = calls.name_to_handle(os.fsencode(top / "d" / "f"))
    ino = (top / "d" / "f").stat().st_ino
    assert foreground.end() == 0
    foreground.start()
    root = os.open(top, os.O_RDONLY)
    try:
        for each in (forged(ino), handle):
            fd = calls.open_by_handle(root, each, os.O_RDONLY)
            assert os.read(fd, 100) == b"content"
            os.close(fd)
        with pytest.raises(OSError, match="Stale"):
            calls.open_by_handle(root, forged(ino + 1), os.O_RDONLY)
    finally:
        os.close(root)


@mounts_inside
def test_overlays(foreground: Foreground, top: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    for place in (merged, top / "lower", top / "upper", top / "work", top / "lower" / "dir"):
        place.mkdir()
    for name in ("kept", "gone", "old", "dir/inside"):
        (top / "lower" / name).write_text("lower")
    places = ",".join(f"{name}dir={top / name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", places, str(merged)], check=True)
    try:
        with (merged / "kept").open("a") as file:
            file.write(" and more")
        (merged / "gone").unlink()
        os.rename(merged / "old", merged / "new")
        (merged / "dir" / "inside").unlink()
        (merged / "dir").rmdir()
        (merged / "dir").mkdir()
        assert (sorted(os.listdir(merged)), os.listdir(merged / "dir")) == (["dir", "kept", "new"], [])
        assert (merged / "kept").read_text() == "lower and more"
    finally:
        mount.unmount(str(merged))
    assert (top / "lower" / "kept").read_text() == "lower"
    for name in ("gone", "old"):
        assert stat.S_ISCHR((top / "upper" / name).lstat().st_mode)
    assert os.getxattr(top / "upper" / "dir", "trusted.overlay.opaque") == b"y"


def test_calls_that_nobody_answers(foreground: Foreground, top: Path) -> None:
    """As on the kernel transport; a snapshot cannot be mounted, so there is nothing to pass through."""
    (top / "f").write_text("x")
    foreground.live.cowfs("checkpoint", "ws", "-m", "one", "--label", "one")
    with (top / "f").open("r+b") as file:
        for call, code in ((GETFLAGS, errno.ENOTTY), (calls.FICLONE, errno.EOPNOTSUPP)):
            with pytest.raises(OSError) as caught:
                fcntl.ioctl(file.fileno(), call, file.fileno())
            assert caught.value.errno == code
        calls.syncfs(file.fileno())
    foreground.end()
    refused = foreground.live.run("mount", "ws@one", str(top), "--foreground", "--transport", "pyfuse3")
    assert (refused.code, refused.err.count("\n")) == (3, 1)
