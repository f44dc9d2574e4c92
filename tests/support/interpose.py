"""Stand between a store and the kernel: every call that changes a file of the store goes through an action.

Calls are those of :mod:`os` and the write transactions of LMDB. The settler's code runs in a thread here
(:class:`ThreadChild`), so that the child's calls are seen too; a child that *dies* makes no further call.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import lmdb

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.settle import child, process
from cowfs.settle.protocol import Channel

BY_PATH = ("open", "rename", "replace", "unlink", "mkdir", "rmdir", "truncate")
BY_DESCRIPTOR = ("write", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate")
WRITES = ("write", "pwrite", "pwritev")
LMDB = "lmdb"
CHILD = "cowfs-test-child"

Call = Callable[..., Any]


class Point(NamedTuple):
    """One call: its name, and whether the settler made it (``child``) or the owner."""

    name: str
    child: bool


Action = Callable[[int, Point, Call, tuple[Any, ...], dict[str, Any]], Any]
"""(number of the call from 1 on, the call, the real function, arguments) -> what the call returns."""


class Died(BaseException):
    """The settler was killed: its thread unwinds, and no call of it has an effect any more."""


class ThreadChild(process.Child):
    """The settler's code, in a thread of this process and on real pipes."""

    def __init__(self, idle_seconds: float, niceness: int) -> None:
        del niceness  # a thread of this process has none of its own
        self.died = False
        to_child, from_child = os.pipe(), os.pipe()
        self.channel = Channel(from_child[0], to_child[1])
        theirs = Channel(to_child[0], from_child[1])
        self._thread = threading.Thread(target=self._run, args=(theirs, idle_seconds), name=CHILD)
        _children[self._thread] = self
        self._thread.start()

    def _run(self, channel: Channel, idle_seconds: float) -> None:
        try:
            child.serve(channel, idle_seconds)
        except (Died, BrokenPipeError):
            pass
        finally:
            channel.close()

    def share(self, niceness: int) -> None:
        """A thread of this process has no session."""

    @property
    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def kill(self) -> None:
        """From now on it does nothing."""
        self.died = True

    def end(self, kill: bool) -> int:
        """See Child.end."""
        if kill:
            self.kill()
        self.channel.close()
        self._thread.join()
        del _children[self._thread]
        return -signal.SIGKILL if self.died else 0


_children: dict[threading.Thread, ThreadChild] = {}
_indexes: dict[str, BlockIndex] = {}


class _SharedStore(child.Store):
    """What a child opens: LMDB lets a process open an index once, so the owner's is shared."""

    def __init__(self, index: str, segments: str) -> None:
        self.segments = Path(segments)
        self.index = _indexes[index]
        self.reader = BlockReader(self.index, self.segments)

    def close(self) -> None:
        """The index is the owner's."""
        self.reader.close()


@contextmanager
def threads_for_children() -> Iterator[None]:
    """Settlers run in threads of this process, and LMDB's transactions are seen.

    Tell :func:`share` of each index that is opened.
    """
    was = process.Settler.child, child.Store, lmdb.open
    process.Settler.child, child.Store = ThreadChild, _SharedStore  # type: ignore[misc]
    lmdb.open = lambda *args, **named: _Environment(was[2](*args, **named))  # type: ignore[assignment]
    try:
        yield
    finally:
        process.Settler.child, child.Store, lmdb.open = was  # type: ignore[misc]


def share(index: BlockIndex) -> None:
    """Let children in threads use this index."""
    _indexes[str(index.path)] = index


@contextmanager
def interposed(store: Path, action: Action) -> Iterator[list[Point]]:
    """Every call that changes something in ``store`` goes through ``action``, whose own calls do not.

    Gives the list of calls so far.
    """
    points: list[Point] = []
    busy = threading.local()
    prefix = os.fsencode(store)

    def through(name: str, real: Call, concerns: Callable[[tuple[Any, ...], dict[str, Any]], bool]) -> Call:
        def call(*args: Any, **named: Any) -> Any:
            if getattr(busy, "inside", False):
                return real(*args, **named)
            mine = _children.get(threading.current_thread())
            if mine is not None and mine.died:
                raise Died
            busy.inside = True
            try:
                if not concerns(args, named):
                    return real(*args, **named)
                points.append(Point(name, mine is not None))
                return action(len(points), points[-1], real, args, named)
            finally:
                busy.inside = False

        return call

    def changes_path(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        return "dir_fd" in named or os.path.abspath(os.fsencode(args[0])).startswith(prefix)

    def creates(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        return len(args) > 1 and bool(args[1] & os.O_CREAT) and changes_path(args, named)

    def in_store(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        return stat.S_IFMT(os.fstat(args[0]).st_mode) in (stat.S_IFREG, stat.S_IFDIR)

    originals = {name: getattr(os, name) for name in (*BY_PATH, *BY_DESCRIPTOR)}
    try:
        for name, real in originals.items():
            concerns = in_store if name in BY_DESCRIPTOR else creates if name == "open" else changes_path
            setattr(os, name, through(name, real, concerns))
        _Environment.through = lambda real: through(LMDB, real, lambda *_: True)
        yield points
    finally:
        _Environment.through = None
        for name, real in originals.items():
            setattr(os, name, real)


class _Environment:
    """An LMDB environment whose write transactions begin through ``through``, while there is one."""

    through: Callable[[Call], Call] | None = None

    def __init__(self, real: lmdb.Environment) -> None:
        self._real = real

    def begin(self, *args: Any, **named: Any) -> Any:
        """See lmdb.Environment.begin."""
        begin = cast(Call, self._real.begin)
        through = type(self).through
        return (through(begin) if through is not None and named.get("write") else begin)(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
