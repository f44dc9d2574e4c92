"""A client that gets an answer before a restore and does not run until much later: it must not bring back old names.

The client shares a processor with a real-time program that keeps it busy, so that the client has its answer but cannot
take it in; everything else runs on another processor.
"""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest

from cowfs.view.inode import Caller, SetAttr
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.dispatch import Handler, Reply

from .agent import Agent
from .conftest import Mounted, unknown_file, wrap_handler
from .test_restore_load import TREE, assert_no_divergence

_HOG = """if True:
    import os, select, sys
    os.sched_setaffinity(0, {int(sys.argv[1])})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    print("ready", flush=True)
    os.read(0, 1)
    print("busy", flush=True)
    while not select.select([0], [], [], 0)[0]:
        pass
"""


class Hog:
    """Keeps one processor busy between :meth:`begin` and :meth:`end`."""

    def __init__(self, processor: int) -> None:
        command = [sys.executable, "-c", _HOG, str(processor)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def __enter__(self) -> Hog:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self._process.communicate()
            pytest.skip("real-time priority is not allowed here")
        return self

    def begin(self) -> None:
        """Return when it is busy."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"b")
        assert select.select([self._process.stdout], [], [], 10)[0]
        assert self._process.stdout.readline() == b"busy\n"

    def end(self) -> None:
        """Let the processor go."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"e")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def processors() -> Iterator[tuple[int, int]]:
    """(ours, the clients') processor; this process runs on the first alone for the test."""
    all_of_them = os.sched_getaffinity(0)
    if len(all_of_them) < 2:
        pytest.skip("needs two processors")
    ours, theirs = sorted(all_of_them)[:2]
    move_to({ours})
    yield ours, theirs
    move_to(all_of_them)


def move_to(processors: set[int]) -> None:
    """Move every thread of this process."""
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), processors)


def stall_after(monkeypatch: pytest.MonkeyPatch, opcode: int, hog: Hog) -> threading.Event:
    """Have the client's processor kept busy before the first request of a kind is answered."""
    stalled = threading.Event()

    def wrapper(handler: Handler, *arguments: Any) -> Reply:
        reply = handler(*arguments)
        if not stalled.is_set():
            hog.begin()
            stalled.set()
        return reply

    wrap_handler(monkeypatch, opcode, wrapper)
    return stalled


def test_a_name_that_was_being_looked_up_again(
    mounted: Mounted, processors: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes the old answer for a name that was notified in between: it must not find the name any more."""
    root = mounted.path
    (root / "f").write_text("one")
    (root / "g").write_text("two")
    one = mounted.checkpoint()
    os.rename(root / "f", root / "kept")
    os.rename(root / "g", root / "f")
    two = mounted.checkpoint()
    mounted.restore(one)
    with Agent() as agent, Hog(processors[1]) as hog:
        agent(f"os.sched_setaffinity(0, {{{processors[1]}}}); path = {os.fspath(root / 'f')!r}")
        assert agent("open(path).read()") == "one"
        mounted.transport._notify(protocol.expire_entry(1, b"f"))
        move_to({processors[0]})
        stalled = stall_after(monkeypatch, protocol.LOOKUP, hog)
        agent.start("open(path).read()")
        assert stalled.wait(10)
        mounted.restore(two)
        hog.end()
        assert agent.result() in ("one", "two")
        assert agent("open(path).read()") == "two"
        assert (root / "f").stat().st_ino == mounted.workspace.view.lookup(1, b"f").ino  # type: ignore[union-attr]


def test_an_inode_that_the_kernel_did_not_know(
    mounted: Mounted, processors: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore waits until the client has taken in the answer, and then has the kernel drop it."""
    with Agent() as agent, Hog(processors[1]) as hog:
        agent(f"os.sched_setaffinity(0, {{{processors[1]}}}); os.chdir({os.fspath(mounted.path)!r})")
        snapshot = unknown_file(mounted, 10, 999)
        move_to({processors[0]})
        stalled = stall_after(monkeypatch, protocol.LOOKUP, hog)
        agent.start("os.stat('f').st_size")
        assert stalled.wait(10)
        restorer = threading.Thread(target=mounted.restore, args=(snapshot,))
        restorer.start()
        restorer.join(0.2)
        hog.end()
        restorer.join(30)
        assert not restorer.is_alive()
        assert agent.result() in (10, 999)
        assert agent("(os.stat('f').st_size, open('f', 'rb').read())") == (10, b"x" * 10)


@pytest.mark.parametrize(
    ("call", "opcode"),
    [
        ("os.chmod('f', 0o600)", protocol.SETATTR),
        ("os.truncate('f', 3)", protocol.SETATTR),
        ("os.chmod('d', 0o700)", protocol.SETATTR),
        ("os.close(os.open('f', os.O_WRONLY | os.O_TRUNC))", protocol.OPEN),
        ("os.pwrite(w, b'new', 5000)", protocol.WRITE),
        ("os.write(a, b'new')", protocol.WRITE),
        ("os.link('f', 'd/g')", protocol.LINK),
        ("os.rename('f', 'd/g')", protocol.RENAME),
        ("os.unlink('f')", protocol.UNLINK),
        ("os.mkdir('e')", protocol.MKDIR),
        ("os.setxattr('f', 'user.a', b'new')", protocol.SETXATTR),
        ("len(list(os.scandir('d')))", protocol.READDIRPLUS),
        ("os.stat('f').st_size", protocol.GETATTR),
    ],
)
def test_a_change_or_look_that_was_answered(
    mounted: Mounted, processors: tuple[int, int], monkeypatch: pytest.MonkeyPatch, call: str, opcode: int
) -> None:
    """What the kernel makes of an answer of before the restore, once the client runs again, is taken back."""
    root = mounted.path
    (root / "d").mkdir()
    (root / "d" / "x").write_bytes(b"x")
    (root / "f").write_bytes(b"old" * 3000)
    os.setxattr(root / "f", "user.a", b"old")
    snapshot = mounted.checkpoint()
    with Agent() as agent, Hog(processors[1]) as hog:
        agent(f"os.sched_setaffinity(0, {{{processors[1]}}}); os.chdir({os.fspath(root)!r})")
        agent("w = os.open('f', os.O_RDWR); a = os.open('f', os.O_RDWR | os.O_APPEND); m = mmap.mmap(w, 9000)")
        agent("os.write(a, b'more'); os.truncate('d/x', 9); os.chmod('f', 0o640); os.listdir('d')")
        for inode in (root / "f", root / "d"):
            mounted.transport._notify(protocol.invalidate_inode(inode.stat().st_ino))
        move_to({processors[0]})
        stalled = stall_after(monkeypatch, opcode, hog)
        agent.start(call)
        assert stalled.wait(10)
        restorer = threading.Thread(target=mounted.restore, args=(snapshot,))
        restorer.start()
        restorer.join(0.1)
        hog.end()
        restorer.join(30)
        assert not restorer.is_alive()
        agent.result()
        agent(TREE)
        assert_no_divergence(mounted, agent)
        assert agent("(m[:], os.getxattr('f', 'user.a'), os.pread(w, 20_000, 0))") == (
            b"old" * 3000, b"old", b"old" * 3000,
        )  # fmt: skip
        assert agent("(os.write(a, b'end'), os.pread(w, 20_000, 0) == b'old' * 3000 + b'end')") == (3, True)
        assert (root / "f").stat().st_size == 9003


def test_a_listing_that_was_answered(
    mounted: Mounted, processors: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel keeps of a listing goes, although it does not know the name that comes back, and the directory's
    time is the same."""
    view, lock = mounted.workspace.view, mounted.workspace.lock
    with lock:
        directory = view.mkdir(1, b"d", 0o755, Caller()).ino
        for name in (b"a", b"b", b"c"):
            view.mknod(directory, name, stat.S_IFREG | 0o644, 0, Caller())
        view.setattr(directory, SetAttr(mtime=1), Caller())
    snapshot = mounted.checkpoint()
    with lock:
        view.unlink(directory, b"b", Caller())
        view.setattr(directory, SetAttr(mtime=1), Caller())
    with Agent() as agent, Hog(processors[1]) as hog:
        agent(f"os.sched_setaffinity(0, {{{processors[1]}}}); os.chdir({os.fspath(mounted.path)!r})")
        agent("d = os.open('d', os.O_RDONLY)")
        move_to({processors[0]})
        stalled = stall_after(monkeypatch, protocol.READDIRPLUS, hog)
        agent.start("len(os.listdir(d))")
        assert stalled.wait(10)
        restorer = threading.Thread(target=mounted.restore, args=(snapshot,))
        restorer.start()
        restorer.join(0.1)
        hog.end()
        restorer.join(30)
        assert not restorer.is_alive()
        agent.result()
        assert agent("sorted(os.listdir(d))") == ["a", "b", "c"]
        assert agent("sorted(os.listdir('d'))") == ["a", "b", "c"]
