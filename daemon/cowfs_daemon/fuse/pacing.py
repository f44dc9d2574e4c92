"""Requests that wait, because settling has fallen behind the writers of their workspace (see ``cowfs.pressure``).

A request that changes something is carried out when its time has come; until then a copy of it lies here, not begun, so
that whatever happens meanwhile finds it as it would find one that the kernel has not handed over yet: a successor has
it sent again, a restore comes before it. The reader goes on, so nothing that only reads waits.

What changes an inode is carried out in the order in which it came: also what need not wait itself, while something
waits, lies behind it. Else a page that was written before a file was emptied would come back.

Who waits for the kernel (flushing before a checkpoint, a restore) says so (:meth:`Pacing.hurry`), since pages that the
kernel writes would be waited for: then nothing waits here. A request that is interrupted does not wait any more either,
so that a program can be killed.

Threads: the reader calls :meth:`Pacing.admit`; a thread of its own, there while something waits, carries out what is
due. ``_condition`` guards everything; no engine lock is taken under it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from cowfs.pressure import Pressed
from cowfs_daemon.fuse import protocol

CHANGES: Final = frozenset(
    (
        protocol.CREATE, protocol.MKNOD, protocol.MKDIR, protocol.SYMLINK, protocol.LINK, protocol.TMPFILE,
        protocol.WRITE, protocol.FALLOCATE, protocol.COPY_FILE_RANGE, protocol.COPY_FILE_RANGE_64,
        protocol.SETXATTR, protocol.REMOVEXATTR, protocol.SETATTR, protocol.UNLINK, protocol.RMDIR, protocol.RENAME,
        protocol.RENAME2,
    )
)  # fmt: skip
"""What is spaced out: each is a record in the journal and may be an inode in memory. So is OPEN with O_TRUNC."""

GROWS: Final = frozenset(
    (
        protocol.CREATE, protocol.MKNOD, protocol.MKDIR, protocol.SYMLINK, protocol.LINK, protocol.TMPFILE,
        protocol.WRITE, protocol.FALLOCATE, protocol.COPY_FILE_RANGE, protocol.COPY_FILE_RANGE_64, protocol.SETXATTR,
    )
)  # fmt: skip
"""What is refused when nothing may be added any more: what a full disk refuses, but for what makes room."""

AHEAD_S = 0.002
"""A request that is due so soon is carried out at once: shorter waits cost more than they slow down."""

WAITING_MAX, WAITING_BYTES_MAX = 4096, 64 << 20
"""Requests, and their bytes, that wait at most; one more is carried out at once."""

CACHED_MAX = 16
"""Pages from mappings that wait at most: the kernel has room for 64 such requests, reading ahead included."""

KEPT_S = 1.0
"""How long the thread stays when nothing waits."""


@dataclass(frozen=True, slots=True)
class PacingStatistics:
    """``waiting``: now; ``paced``: requests that had to wait, ``paced_s`` how long together; ``refused``: ENOSPC."""

    waiting: int
    paced: int
    paced_s: float
    refused: int


class Pacing:
    """The waiting requests of one session. ``pressed()``: what a change costs now; ``carry_out(request)`` does one."""

    def __init__(self, pressed: Callable[[], Pressed | None], carry_out: Callable[[bytearray], None]) -> None:
        self._pressed = pressed
        self._carry_out = carry_out
        self._condition = threading.Condition()
        self._waiting: OrderedDict[int, tuple[bytearray, float, bool]] = OrderedDict()
        self._size = self._cached = 0
        self._due = 0.0
        self._hurried = 0
        self.holds = False
        """Whether something waits, or is being carried out by the thread. The reader, who asks, alone makes it True."""
        self._running = False
        self._runner: threading.Thread | None = None
        self._paced = self._refused = 0
        self._paced_s = 0.0

    def admit(self, request: bytearray, size: int, unique: int, cost_s: float, cached: bool) -> bool:
        """Whether the request is to be carried out now; else a copy of it waits. ``cached``: pages of a mapping.

        Where others wait all the same, those in :meth:`ahead` come first.
        """
        with self._condition:
            now = monotonic()
            if self._hurried:
                return True
            if not self.holds:
                self._due = max(self._due, now)
                if self._due - now < AHEAD_S:
                    self._due += cost_s
                    return True
            full = len(self._waiting) >= WAITING_MAX or self._size + size > WAITING_BYTES_MAX
            if full or (cached and self._cached >= CACHED_MAX):
                return True
            self._waiting[unique] = (request[:size], now, cached)
            self._size += size
            self._cached += cached
            self.holds = True
            if self._runner is None:
                self._runner = threading.Thread(target=self._run, name="cowfs-paced", daemon=True)
                self._runner.start()
            self._condition.notify_all()
            return False

    def refuse(self) -> bool:
        """Whether what would grow is to be refused now; counted if so."""
        with self._condition:
            if not self._hurried:
                self._refused += 1
            return not self._hurried

    def take(self, unique: int) -> list[bytearray]:
        """A request that waits and shall not any more, behind those of the same inode; the caller carries them out."""
        with self._condition:
            self._condition.wait_for(lambda: not self._running)
            if unique not in self._waiting:
                return []
            return self._of(_inode(self._waiting[unique][0]), unique)

    def ahead(self, ino: int) -> list[bytearray]:
        """What waits to be done to an inode, none of which waits any more; the caller carries it out, in this order."""
        with self._condition:
            self._condition.wait_for(lambda: not self._running)
            return self._of(ino)

    def _of(self, ino: int, last: int = -1) -> list[bytearray]:
        """The requests that wait and are about an inode, up to ``last``."""
        found = []
        for unique, (request, _, _) in self._waiting.items():
            if _inode(request) == ino:
                found.append(unique)
            if unique == last:
                break
        return [self._pop(unique) for unique in found]

    def _pop(self, unique: int) -> bytearray:
        request, since, cached = self._waiting.pop(unique)
        self._size -= len(request)
        self._cached -= cached
        self._paced += 1
        self._paced_s += monotonic() - since
        self.holds = self._running or bool(self._waiting)
        return request

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """While this lasts, nothing waits; what did is carried out."""
        with self._condition:
            self._hurried += 1
            self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._hurried -= 1

    def drain(self) -> None:
        """Return when everything that waited has been carried out."""
        with self.hurry(), self._condition:
            self._condition.wait_for(lambda: not self._waiting and not self._running)

    def end(self) -> None:
        """Nothing comes any more: let go of the session, which holds this, and with it of the workspace's files."""
        self._pressed, self._carry_out = _unpressed, _nothing

    def statistics(self) -> PacingStatistics:
        """Counts of this moment."""
        return PacingStatistics(len(self._waiting), self._paced, self._paced_s, self._refused)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            try:
                self._carry_out(request)
            finally:
                with self._condition:
                    self._running, self.holds = False, bool(self._waiting)
                    self._condition.notify_all()

    def _next(self) -> bytearray | None:
        """The next request, when it is due; None when nothing has come for a while."""
        while True:
            pressed = self._pressed()
            with self._condition:
                if not self._condition.wait_for(lambda: self._waiting, KEPT_S):
                    self._runner = None
                    return None
                now = monotonic()
                if pressed is None or self._hurried or now >= self._due:
                    self._running = True
                    request = self._pop(next(iter(self._waiting)))
                    self._due = max(self._due, now) if pressed is not None else now
                    if pressed is not None and not self._hurried:
                        self._due += cost(pressed, len(request))
                    return request
                self._condition.wait(self._due - now)


def changes(opcode: int, request: bytearray, size: int) -> bool:
    """Whether a request is spaced out."""
    return opcode in CHANGES or (opcode == protocol.OPEN and protocol.truncates(request, size))


def _inode(request: bytearray) -> int:
    return int(protocol.header(request)[3])


def _unpressed() -> None:
    """Nothing is served any more."""


def _nothing(_: bytearray) -> None:
    """Nothing is served any more."""


def cost(pressed: Pressed, size: int) -> float:
    """Seconds that a request of ``size`` bytes costs."""
    return pressed.request_s + pressed.byte_s * size
