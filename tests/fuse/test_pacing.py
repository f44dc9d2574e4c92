"""Back-pressure on a live mount: writers are slowed down, nobody else is, and no verb waits for them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cowfs.pressure import Bounds, Pressed
from cowfs_daemon.fuse import pacing, protocol

from .agent import Agent
from .conftest import HANG_S, Mounted, wait_until

RECORDS = 2000
SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
while True:
    os.pwrite(fd, b"x", 0)
"""


def bound(mounted: Mounted, **bounds: int) -> None:
    """Set the workspace's bounds and see to it that they are noticed."""
    mounted.workspace.env.lag.bounds = Bounds(**bounds)


def backlog(mounted: Mounted) -> int:
    return mounted.workspace.statistics().backlog.records


@contextmanager
def writers(mounted: Mounted, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that change a file each as fast as they can; killed at the end."""
    made = [subprocess.Popen([sys.executable, "-c", WRITER, mounted.path / f"w{n}"]) for n in range(count)]
    try:
        yield made
    finally:
        for process in made:
            process.kill()
        for process in made:
            process.wait(HANG_S)


def waiting(mounted: Mounted) -> int:
    return mounted.transport.statistics().pacing.waiting


def all_but_stopped(mounted: Mounted, path: Path) -> None:
    """From now on, until the bound is raised, a change waits for a second; ``path`` is what is changed to get there."""
    for _ in range(RECORDS):
        os.utime(path)
    bound(mounted, records=backlog(mounted) * 10 // 17)
    while not mounted.transport.statistics().pacing.paced:
        os.utime(path)


@pytest.fixture
def pressed(mounted: Mounted) -> Iterator[Mounted]:
    """A mount where four writers have filled the bound, and wait."""
    (mounted.path / "other").write_bytes(b"other" * 1000)
    bound(mounted, records=RECORDS)
    with writers(mounted, 4):
        wait_until(lambda: backlog(mounted) > 0.85 * RECORDS and waiting(mounted) >= 2, HANG_S)
        yield mounted


def test_the_backlog_stays_bounded_and_readers_do_not_wait(pressed: Mounted) -> None:
    before, began = backlog(pressed), time.monotonic()
    slowest = 0.0
    for _ in range(300):
        at = time.monotonic()
        fd = os.open(pressed.path / "other", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert len(os.read(fd, 5000)) == 5000
        os.fstat(fd)
        os.close(fd)
        assert not (pressed.path / f"missing-{at}").exists()
        slowest = max(slowest, time.monotonic() - at)
    seconds = time.monotonic() - began
    made = backlog(pressed) - before
    assert made < 300 + 100 * seconds, "opening and closing are records too; writers do few"
    assert slowest < pacing.AHEAD_S + 1.0


def test_verbs_and_fsync_do_not_wait(pressed: Mounted) -> None:
    began = time.monotonic()
    snapshot = pressed.checkpoint()
    fd = os.open(pressed.path / "other", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    pressed.restore(snapshot)
    assert (pressed.path / "other").read_bytes() == b"other" * 1000
    assert time.monotonic() - began < HANG_S / 2


def test_dirty_mappings_are_flushed_by_a_checkpoint_and_taken_back_by_a_restore(mounted: Mounted) -> None:
    path = mounted.path / "mapped"
    path.write_bytes(bytes(1 << 20))
    bound(mounted, records=RECORDS)
    with writers(mounted, 4), Agent() as agent:
        agent(f"f = open({str(path)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0)")
        wait_until(lambda: backlog(mounted) > 0.85 * RECORDS and waiting(mounted) >= 2, HANG_S)
        agent("for page in range(0, 1 << 20, 4096): m[page] = 1")
        snapshot = mounted.checkpoint()
        agent("for page in range(0, 1 << 20, 4096): m[page] = 2")
        mounted.restore(snapshot)
        assert agent("set(m[::4096])") == {1}


def test_a_waiting_program_can_be_killed(mounted: Mounted) -> None:
    bound(mounted, records=RECORDS)
    with writers(mounted, 1) as (process,):
        wait_until(lambda: backlog(mounted) > 0.85 * RECORDS and waiting(mounted) == 1, HANG_S)
        began = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait(HANG_S)
        assert time.monotonic() - began < HANG_S / 2


@contextmanager
def page_that_waits(mounted: Mounted, path: Path) -> Iterator[None]:
    """A page of ``path`` was dirtied through a mapping; the kernel has written it, and that waits to be carried out."""
    path.write_bytes(b"old" * 10_000)
    other = mounted.path / "other"
    other.touch()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        pages[0] = 1
        all_but_stopped(mounted, other)
        assert not _libc.sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)
        wait_until(lambda: waiting(mounted) == 1, HANG_S)
        yield


@pytest.mark.parametrize("relieved", [False, True])
def test_emptying_a_file_comes_after_what_was_written_to_it(mounted: Mounted, relieved: bool) -> None:
    """A shell's ``: > file``. ``relieved``: settling has caught up meanwhile, so that nobody need wait any more."""
    path = mounted.path / "file"
    with page_that_waits(mounted, path):
        if relieved:
            bound(mounted, records=1_000_000)
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        wait_until(lambda: not waiting(mounted), HANG_S)
        assert mounted.workspace.view.inode(path.stat().st_ino).size == 0
    assert path.read_bytes() == b""


def test_what_waits_no_more_comes_behind_what_waits_for_the_same_inode() -> None:
    """Because its program was interrupted, or because no more can wait."""

    def request(unique: int, ino: int) -> bytearray:
        return bytearray(struct.pack("<IIQQ16x", 40, protocol.SETATTR, unique, ino))

    done: list[bytearray] = []
    held = pacing.Pacing(lambda: Pressed(HANG_S, 0.0, False), done.append)
    assert held.admit(request(1, 7), 40, 1, HANG_S, False)
    waiting = [(2, 7), (3, 8), (4, 7), (5, 8), (6, 7)]
    for unique, ino in waiting:
        assert not held.admit(request(unique, ino), 40, unique, HANG_S, False)
    assert held.take(4) == [request(2, 7), request(4, 7)]
    assert held.take(4) == []
    assert held.ahead(8) == [request(3, 8), request(5, 8)]
    assert held.holds
    held.drain()
    assert done == [request(6, 7)]
    assert not held.holds


def test_everything_goes_on_once_it_is_settled(pressed: Mounted) -> None:
    bound(pressed, records=1_000_000)
    before = backlog(pressed)
    wait_until(lambda: backlog(pressed) > before + 2 * RECORDS and not waiting(pressed), HANG_S)


def test_another_process_carries_out_nothing_twice(pressed: Mounted) -> None:
    """Stopping between two requests leaves none of those behind that waited."""
    pressed.transport.session.stop()
    assert waiting(pressed) == 0
    stopped = backlog(pressed)
    assert not threading.Event().wait(0.1)
    assert backlog(pressed) == stopped
    bound(pressed, records=1_000_000)
    pressed.transport.session.start()
    wait_until(lambda: backlog(pressed) > stopped + RECORDS, HANG_S)


def test_when_nothing_settles_what_grows_is_refused_and_the_rest_goes_on(mounted: Mounted) -> None:
    kept = mounted.path / "kept"
    kept.write_bytes(b"kept")
    mounted.checkpoint()
    parent = mounted.workspace.view.state.parent
    assert parent is not None
    mounted.workspace.env.lag.stall(frozenset([parent.id]))
    bound(mounted, records=RECORDS)
    with pytest.raises(OSError) as refused:
        _touch_many(mounted.path)
    assert refused.value.errno == errno.ENOSPC
    assert mounted.transport.statistics().pacing.paced == 0, "waiting would not help"
    assert backlog(mounted) < 3 * RECORDS
    assert kept.read_bytes() == b"kept"
    for number in range(100):
        os.unlink(mounted.path / f"f{number}")
    os.rename(kept, mounted.path / "renamed")
    snapshot = mounted.checkpoint()
    os.unlink(mounted.path / "renamed")
    mounted.restore(snapshot)
    assert (mounted.path / "renamed").read_bytes() == b"kept"
    mounted.workspace.env.lag.stall(frozenset())
    bound(mounted, records=1_000_000)
    wait_until(lambda: _can_write(mounted.path / "again"))


def _touch_many(directory: Path) -> None:
    for number in range(20 * RECORDS):
        (directory / f"f{number}").touch()


def _can_write(path: Path) -> bool:
    try:
        path.write_bytes(b"x")
    except OSError:
        return False
    return True


def test_a_paced_write_is_whole_and_in_order(mounted: Mounted) -> None:
    """What a program writes while it is slowed down is what it reads afterwards, byte for byte."""
    bound(mounted, records=RECORDS)
    path = mounted.path / "f"
    with path.open("wb", buffering=0) as file:
        for number in range(1600):
            file.write(b"%09d\n" % number)
    assert path.read_bytes() == b"".join(b"%09d\n" % number for number in range(1600))
    assert mounted.transport.statistics().pacing.paced > 0
