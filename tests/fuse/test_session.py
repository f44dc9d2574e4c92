"""Threads, mounting and unmounting, and handing a mount over."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs.errors import Busy, Conflict, Invalid, NotFound
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport
from tests.support.mounting import needs_root

from .agent import Agent
from .conftest import Mounted, new_workspace, wait_until


def test_an_idle_mount_holds_no_thread(server: Server, mount_workspace: Callable[[], Mounted]) -> None:
    many = [mount_workspace() for _ in range(8)]
    wait_until(lambda: server.statistics().idle == 8)
    threads = threading.active_count()
    for mounted in many:
        (mounted.path / "f").write_text("x")
        wait_until(lambda: server.statistics().idle == 8)
    assert server.statistics().readers <= 8
    assert threading.active_count() <= threads


def test_mounts_are_served_at_the_same_time(server: Server, mount_workspace: Callable[[], Mounted]) -> None:
    """One mount that cannot be answered (its lock is held) does not hold up another."""
    stuck, free = mount_workspace(), mount_workspace()
    (free.path / "f").write_text("x")
    with Agent() as agent:
        agent("None")
        with stuck.workspace.lock:
            agent.start(f"os.stat({str(stuck.path)!r} + '/f')")
            for i in range(100):
                (free.path / f"g{i}").touch()
        assert agent.result() == ("errno", errno.ENOENT)


def test_fsync_does_not_hold_up_other_requests(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()
    sync = mounted.workspace.sync

    def slow() -> None:
        entered.set()
        leave.wait(30)
        sync()

    monkeypatch.setattr(mounted.workspace, "sync", slow)
    with Agent() as agent:
        agent(f"f = open({str(mounted.path / 'f')!r}, 'wb'); f.write(b'x'); f.flush()")
        agent.start("os.fsync(f.fileno())")
        assert entered.wait(30)
        (mounted.path / "g").write_text("y")
        leave.set()
        assert agent.result() is None


def test_a_failing_fsync_is_told(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    with (mounted.path / "f").open("wb") as file:
        with monkeypatch.context() as patch:
            patch.setattr(mounted.workspace, "sync", fail)
            with pytest.raises(OSError, match="No space"):
                os.fsync(file.fileno())
        os.fsync(file.fileno())


@pytest.mark.interpreted
def test_a_defect_in_the_engine_is_eio_and_nothing_more(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    (mounted.path / "f").touch()
    with monkeypatch.context() as patch:
        patch.setattr(type(mounted.workspace.view), "setxattr", broken)
        with pytest.raises(OSError) as caught:
            os.setxattr(mounted.path / "f", "user.a", b"1")
        assert caught.value.errno == errno.EIO
    os.setxattr(mounted.path / "f", "user.a", b"1")


def test_unmount_is_busy_while_in_use(mounted: Mounted) -> None:
    with Agent() as agent:
        agent(f"os.chdir({str(mounted.path)!r})")
        with pytest.raises(Busy):
            mounted.transport.unmount()
        (mounted.path / "still").write_text("served")
        mounted.checkpoint()


def test_forced_unmount_cuts_off_who_uses_it(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    transport = Transport(server, mounts.mount(str(path), connection_id=1), new_workspace(tmp_path))
    transport.start()
    with Agent() as agent:
        agent(f"os.chdir({str(path)!r}); f = open('f', 'w')")
        transport.unmount(force=True)
        assert agent("os.stat('f')")[1] in (errno.ENOTCONN, errno.ECONNABORTED)
    assert not os.path.ismount(path)
    assert server.statistics().mounts == 0


def test_the_end_of_a_mount_is_seen(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    ended = threading.Event()
    connection = mounts.mount(str(path), connection_id=1)
    transport = Transport(server, connection, new_workspace(tmp_path), on_end=ended.set)
    transport.start()
    mounts.abort(connection.number)
    assert ended.wait(10)
    wait_until(lambda: server.statistics().mounts == 0)
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.stat(path / "f")
    transport.unmount(force=True)


def test_a_mount_is_handed_over(server: Server, mount_workspace: Callable[[], Mounted]) -> None:
    mounted = mount_workspace()
    other = Server(idle_s=0.1)
    with Agent() as agent:
        agent(f"os.chdir({str(mounted.path)!r}); f = open('f', 'w+'); f.write('before'); f.flush()")
        connection = mounted.transport.detach()
        agent.start("(open('f').read(), f.write('!'), f.flush(), os.listdir('.'))")
        successor = Transport(other, connection, mounted.workspace, complete=False)
        successor.start()
        assert agent.result() == ("before", 1, None, ["f"])
        agent("f.close(); os.chdir('/')")
        successor.detach()
    other.close()
    mounted.transport = Transport(server, connection, mounted.workspace, complete=False)
    mounted.transport.start()
    assert (mounted.path / "f").read_text() == "before!"


def test_mountpoints_are_made_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    old = os.umask(0)
    try:
        mounts.prepare_mountpoint(str(path))
        mounts.prepare_mountpoint(str(path))
    finally:
        os.umask(old)
    assert [made.stat().st_mode & 0o777 for made in (path.parent, path)] == [0o700, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(Conflict):
        mounts.prepare_mountpoint(str(tmp_path / "file"))


def test_mount_errors_are_clear(fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="missing"):
        mounts.mount(str(tmp_path / "missing"), connection_id=1)
    with pytest.raises(NotFound):
        mounts.abort(4_000_000)
    mounts.unmount(str(tmp_path))


@needs_root("opens /dev/fuse by itself")
def test_a_device_that_cannot_be_opened(fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_device(path: str, *arguments: int) -> int:
        return real("/nonexistent/fuse" if path == "/dev/fuse" else path, *arguments)

    monkeypatch.setattr(os, "open", no_device)
    with pytest.raises(Invalid, match="/dev/fuse") as caught:
        mounts.mount(str(tmp_path), connection_id=1)
    assert "--device" in caught.value.hint


def test_mount_options(mounted: Mounted) -> None:
    (line,) = [line for line in mounts.mount_table() if line.path == str(mounted.path)]
    assert line.kind == "fuse.cowfs"
    assert os.minor(line.device) == mounted.transport.connection.number
    flags = os.statvfs(mounted.path).f_flag
    for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOATIME):
        assert flags & flag
