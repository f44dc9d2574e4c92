"""Checkpoint and restore through a live mount: what programs see."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import Busy
from cowfs_daemon.fuse import mount as mounts
from tests.support.mounting import as_others, mounts_inside

from .agent import Agent
from .conftest import Mounted, client, wait_until

libc = ctypes.CDLL(None, use_errno=True)
ESTALE = ("errno", errno.ESTALE)


@pytest.fixture
def agent(mounted: Mounted) -> Iterator[Agent]:
    """A program whose working directory is the mount's parent."""
    with Agent() as made:
        made(f"os.chdir({str(mounted.path.parent)!r})")
        yield made


def test_dirty_shared_mapping_is_in_the_checkpoint(mounted: Mounted, agent: Agent) -> None:
    path = mounted.path / "f"
    path.write_bytes(bytes(100_000))
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[50_000] = 7; m[99_999] = 8")
    snapshot = mounted.checkpoint()
    view = mounted.workspace.view
    inode = view.lookup(1, b"f")
    assert inode is not None
    data = view.read(inode.ino, 0, 100_000)
    assert (data[50_000], data[99_999]) == (7, 8)
    agent("m[50_000] = 9")
    mounted.restore(snapshot)
    assert agent("m[50_000]") == 7
    agent("m[50_000] = 10")
    mounted.restore(snapshot)
    assert agent("(m[50_000], m[99_999])") == (7, 8)


def test_mapping_of_an_unlinked_file_is_flushed(mounted: Mounted, agent: Agent) -> None:
    path = mounted.path / "f"
    path.write_bytes(bytes(8192))
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0] = 1; os.unlink('mnt/f')")
    mounted.checkpoint()
    assert agent("(m[0], os.fstat(f.fileno()).st_nlink)") == (1, 0)


def test_flush_opens_nothing_that_stays(mounted: Mounted, agent: Agent) -> None:
    agent("fds = [os.open(f'mnt/f{i}', os.O_CREAT | os.O_RDWR) for i in range(50)]")
    before = mounted.transport.statistics()
    mounted.checkpoint()
    after = mounted.transport.statistics()
    assert (before.opens, before.writers) == (after.opens, after.writers) == (50, 50)
    agent("[os.close(fd) for fd in fds]")
    mounted.checkpoint()
    wait_until(lambda: mounted.transport.statistics().writers == 0)  # the kernel tells of a close later


def test_open_descriptors_go_on_with_the_restored_content(mounted: Mounted, agent: Agent) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"old content")
    snapshot = mounted.checkpoint()
    agent("r = os.open('mnt/f', os.O_RDONLY); w = os.open('mnt/f', os.O_RDWR)")
    agent("a = os.open('mnt/f', os.O_WRONLY | os.O_APPEND); os.write(a, b' and much that is new')")
    outcome = mounted.restore(snapshot)
    assert agent("os.pread(r, 100, 0)") == b"old content"
    assert agent("(os.fstat(r).st_size, os.stat('mnt/f').st_size)") == (11, 11)
    agent("os.write(a, b'+')")
    assert agent("os.pread(r, 100, 0)") == b"old content+"
    assert path.stat().st_size == 12
    assert [(handle.writable, handle.gone) for handle in outcome.handles] == [(True, False)]


def test_append_after_a_restore_that_grows_the_file(mounted: Mounted, agent: Agent) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"x" * 10_000)
    snapshot = mounted.checkpoint()
    agent("a = os.open('mnt/f', os.O_RDWR | os.O_APPEND); os.ftruncate(a, 3)")
    mounted.restore(snapshot)
    agent("os.write(a, b'end')")
    assert agent("os.pread(a, 20_000, 0)") == b"x" * 10_000 + b"end"


def test_append_through_a_descriptor_opened_after_the_restore(mounted: Mounted, agent: Agent) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"short")
    snapshot = mounted.checkpoint()
    path.write_bytes(b"something longer")
    mounted.restore(snapshot)
    agent("a = os.open('mnt/f', os.O_RDWR | os.O_APPEND); os.write(a, b'!')")
    assert agent("os.pread(a, 100, 0)") == b"short!"


def test_descriptors_of_what_is_gone(mounted: Mounted, agent: Agent) -> None:
    snapshot = mounted.checkpoint()
    (mounted.path / "f").write_bytes(b"x" * 5000)
    (mounted.path / "d").mkdir()
    agent("r = os.open('mnt/f', os.O_RDONLY); os.pread(r, 10, 0)")
    agent("w = open('mnt/f', 'r+b'); m = mmap.mmap(w.fileno(), 0); m[0] = 1")
    agent("os.chdir('mnt/d')")
    outcome = mounted.restore(snapshot)
    assert [(handle.writable, handle.gone) for handle in outcome.handles] == [(True, True)]
    assert agent("os.pread(r, 10, 0)") == ESTALE
    assert agent("os.fstat(r)") == ESTALE
    assert agent("os.stat('.')") == ESTALE
    assert agent("os.listdir('.')") == ESTALE
    assert agent("open('new', 'w')") == ESTALE
    assert os.listdir(mounted.path) == []
    mounted.checkpoint()  # What is open for writing but gone has nowhere to be flushed to.
    with pytest.raises(EOFError, match="-7"):  # SIGBUS
        agent("m[0]")


def test_deleted_and_open_file_is_gone_after_a_restore_of_another_state(mounted: Mounted, agent: Agent) -> None:
    snapshot = mounted.checkpoint()
    agent("f = open('mnt/f', 'w+b'); f.write(b'data'); f.flush(); os.unlink('mnt/f')")
    mounted.restore(snapshot)
    assert agent("os.pread(f.fileno(), 10, 0)") == ESTALE


def test_file_deleted_since_comes_back_to_its_descriptor(mounted: Mounted, agent: Agent) -> None:
    (mounted.path / "f").write_bytes(b"data")
    snapshot = mounted.checkpoint()
    agent("f = open('mnt/f', 'r+b'); os.unlink('mnt/f')")
    mounted.restore(snapshot)
    assert agent("(os.fstat(f.fileno()).st_nlink, os.pread(f.fileno(), 10, 0))") == (1, b"data")
    assert (mounted.path / "f").stat().st_ino == agent("os.fstat(f.fileno()).st_ino")


def test_mapping_sees_the_restored_bytes_beyond_the_old_end(mounted: Mounted, agent: Agent) -> None:
    (mounted.path / "f").write_bytes(b"x" * 20_000)
    snapshot = mounted.checkpoint()
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0)")
    agent("os.ftruncate(f.fileno(), 100)")
    mounted.restore(snapshot)
    assert agent("m[19_999]") == ord("x")


def test_names_and_listings_are_those_of_the_snapshot(mounted: Mounted) -> None:
    root = mounted.path
    (root / "kept").mkdir()
    (root / "kept" / "a").write_text("a")
    (root / "lost").mkdir()
    (root / "lost" / "b").write_text("b")
    os.symlink("old", root / "link")
    snapshot = mounted.checkpoint()
    for _ in range(2):
        assert not (root / "new").exists()
        (root / "new").write_text("new")
        (root / "kept" / "a").unlink()
        os.rename(root / "lost" / "b", root / "kept" / "c")
        (root / "lost").rmdir()
        (root / "link").unlink()
        os.symlink("other", root / "link")
        os.chmod(root / "kept", 0o700)
        assert sorted(os.listdir(root)) == ["kept", "link", "new"]
        assert os.listdir(root / "kept") == ["c"]
        assert not (root / "lost").exists()
        mounted.restore(snapshot)
        assert not (root / "new").exists()
        assert sorted(os.listdir(root)) == ["kept", "link", "lost"]
        assert os.listdir(root / "kept") == ["a"]
        assert (root / "kept" / "a").read_text() == "a"
        assert (root / "lost" / "b").read_text() == "b"
        assert os.readlink(root / "link") == "old"
        assert (root / "kept").stat().st_mode & 0o777 == 0o755


@as_others
def test_xattrs_and_acls_are_those_of_the_snapshot(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.touch(0o600)
    os.setxattr(path, "user.a", b"old")
    snapshot = mounted.checkpoint()
    os.setxattr(path, "user.a", b"new")
    os.chmod(mounted.path, 0o755)
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF),
                               (32, 0, 0xFFFFFFFF)]
    )  # fmt: skip
    os.setxattr(path, "system.posix_acl_access", acl)
    read = """if True:
        import os, sys
        os.chdir(sys.argv[1]); os.setuid(1000)
        try:
            open("f").close()
            print("read")
        except PermissionError:
            print("refused")
    """
    assert client(read, mounted.path).stdout == "read\n"
    mounted.restore(snapshot)
    assert os.getxattr(path, "user.a") == b"old"
    assert client(read, mounted.path).stdout == "refused\n"


@mounts_inside
def test_a_mount_inside_survives_where_its_place_does(mounted: Mounted) -> None:
    inside = mounted.path / "proc"
    inside.mkdir()
    snapshot = mounted.checkpoint()
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", inside], check=True)
    try:
        (inside / "mark").touch()
        assert mounted.transport.mount_points() == [("proc", mounted.workspace.view.lookup(1, b"proc").ino)]  # type: ignore[union-attr]
        (mounted.path / "other").touch()
        mounted.restore(snapshot)
        assert (inside / "mark").exists()
        assert not (mounted.path / "other").exists()
    finally:
        subprocess.run(["umount", inside], check=True)


@mounts_inside
def test_a_mount_inside_without_its_place_is_refused(mounted: Mounted) -> None:
    snapshot = mounted.checkpoint()
    inside = mounted.path / "proc"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", inside], check=True)
    with pytest.raises(Busy, match="proc"):
        mounted.restore(snapshot)
    assert os.path.ismount(inside)
    mounted.restore(snapshot, force=True)
    assert not inside.exists()
    assert not [line for line in mounts.mount_table() if line.path == str(inside)]


def test_a_restore_causes_no_inotify_events(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.write_text("old")
    snapshot = mounted.checkpoint()
    path.write_text("new")
    (mounted.path / "g").touch()
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for watched in (path, mounted.path):
            assert libc.inotify_add_watch(fd, os.fsencode(watched), 0xFFF) >= 0
        mounted.restore(snapshot)
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        assert path.read_text() == "old"
    finally:
        os.close(fd)


def test_statistics_after_forget(mounted: Mounted, mnt: Path) -> None:
    for i in range(100):
        (mnt / f"f{i}").touch()
    assert mounted.transport.statistics().known >= 100
    for i in range(100):
        (mnt / f"f{i}").unlink()
    os.stat(mnt)
    assert mounted.transport.statistics().known < 100
