"""What is open: it decides which inodes live on without a name, and what a checkpoint has to flush.

Descriptors belong to a mount, not to a state. What a successor of this process must know of them is journaled, and
written again into each new layer, since it reads no older one.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from cowfs.layers.journal import Journal
from cowfs.view import apply
from cowfs.view.inode import Caller, Inode
from cowfs.view.orphans import carried
from cowfs.view.reading import ReadView
from cowfs.view.room import Room
from cowfs.view.state import State

UNKNOWN_COUNT = 1 << 40
"""Open descriptors of an inode, when only a predecessor that has died knew how many."""

CARRIED_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of files without a name that are open, written again into one layer, so that they outlive the process.

More would make a checkpoint, or opening them, slow; such files are lost when the process that serves them dies.
"""

_WRITERS_PER_RECORD = 65_536


class Descriptors(ReadView):
    """A :class:`State` with what is open in it; every change of that goes through ``journal`` first.

    ``unsure``: a predecessor has died, so files may be open that nobody here knows of: what loses its name lives until
    the kernel forgets it.
    """

    __slots__ = ("_carried_bytes", "_clock", "_ended", "_journal", "_opens", "unsure")

    def __init__(self, state: State, journal: Journal, clock: Callable[[], int], room: Room) -> None:
        super().__init__(state, room)
        self._journal = journal
        self._clock = clock
        self._opens: dict[int, list[int]] = {}
        self.unsure = False
        self._ended: set[int] = set()  # orphans of which only the kernel still knows: a replay has lost them
        self._carried_bytes = 0  # in this layer

    def _journaled(self, record: j.Record, caller: Caller) -> int:
        time = self._clock()
        self._journal.append(record, time, caller.connection, caller.unique)
        return time

    def is_open(self, ino: int) -> int:
        """1 when a descriptor of the inode may be open, else 0."""
        return 1 if ino in self._opens or self.unsure else 0

    def descriptors(self, ino: int) -> int:
        """How many descriptors of the inode are known to be open."""
        return self._opens.get(ino, (0, 0))[0]

    def opened(self, ino: int, writable: bool, caller: Caller) -> None:
        """A descriptor was opened. Journaled when it makes the inode open for writing.

        One that lost its name before, when only the kernel knew it, is carried too: a replay has lost it by then.
        """
        counts = self._opens.get(ino)
        if counts is None:
            counts = [0, 0]
        if ino in self._ended:
            with suppress(OSError, Corrupt):  # only a successor misses it
                self._carry_if_small(self.state.inode(ino))
        if writable and not counts[1]:
            record = j.Opened(ino, 1, 1)
            apply.opened(self.state, self._journaled(record, caller), record)
        counts[0] += 1
        counts[1] += 1 if writable else 0
        self._opens[ino] = counts

    def released(self, ino: int, writable: bool, caller: Caller) -> None:
        """A descriptor was closed for good; the last one ends an orphan that nobody else knows.

        Raises OSError when this cannot be journaled; it has happened all the same.
        """
        counts = self._opens.get(ino)
        if counts is None:
            return
        counts[0] -= 1
        counts[1] -= 1 if writable else 0
        records: list[j.Record] = []
        if writable and not counts[1] and ino in self.state.opens:
            del self.state.opens[ino]
            records.append(j.Opened(ino, 0, 0))
        if counts[0] <= 0:
            del self._opens[ino]
            if ino in self.state.orphans and not self.unsure:
                records.append(j.OrphanEnd(ino))
                self._unopened(ino)
        for record in records:
            self._journaled(record, caller)

    def _unopened(self, ino: int) -> None:
        """An orphan has no descriptor: only the kernel may know it."""
        if ino in self.state.pinned:
            self._ended.add(ino)
        else:
            self.state.end_orphan(ino)

    def forget(self, ino: int) -> None:
        """The kernel no longer knows the inode, so nobody has it open."""
        self.state.opens.pop(ino, None)
        if self.unsure:
            self._opens.pop(ino, None)
        if ino in self.state.orphans and ino not in self._opens:
            if ino in self._ended:
                self._ended.discard(ino)
            else:
                with suppress(OSError):  # a successor keeps it until it ends
                    self._journaled(j.OrphanEnd(ino), Caller())
            self.state.end_orphan(ino)

    # ---- from one process, layer or view to the next ---------------------------------------------

    def reopened(self, opens: Mapping[int, int], writers: Mapping[int, int], unsure: bool) -> None:
        """Descriptors opened in another process: how many of each inode, how many for writing, or more (``unsure``)."""
        self._opens = {ino: [count, writers.get(ino, 0)] for ino, count in opens.items()}
        self.unsure = unsure

    def taken_over(self) -> tuple[dict[int, int], dict[int, int]]:
        """Another process has died: (open, open for writing), each inode -> how often, of what the journal knows.

        How many descriptors it does not say; so many count as open until the kernel forgets the inode.
        """
        opens = dict.fromkeys(self.state.opens, UNKNOWN_COUNT)
        writers = {ino: UNKNOWN_COUNT for ino, (_, writable) in self.state.opens.items() if writable}
        self.reopened(opens, writers, True)
        return opens, writers

    def unopened(self) -> None:
        """There is no mount, or a new one: nothing is open, and no kernel knows an inode."""
        closed: list[j.Record] = [j.Opened(ino, 0, 0) for ino in self.state.opens]
        closed += [j.OrphanEnd(ino) for ino in self.state.orphans]
        self.reopened({}, {}, False)
        self.state.opens.clear()
        self.state.pinned = ()
        self._ended.clear()
        for ino in list(self.state.orphans):
            self.state.end_orphan(ino)
        with suppress(OSError):  # a successor finds the same
            for record in closed:
                self._journaled(record, Caller())

    def adopt_opens(self, other: Descriptors) -> None:
        """Take over the descriptors of the view before a restore: handles belong to the mount."""
        self._opens, self.unsure = other._opens, other.unsure
        self.state.opens = other.state.opens
        self.state.pinned = other.state.pinned

    def carry_opens(self) -> int:
        """Journal what is open for writing, and the open files without a name, small ones first.

        Of these at most :data:`CARRIED_BYTES_MAX`; returns how many bytes there were. Raises OSError.
        """
        self._carried_bytes = 0
        for record in _writers(self.state):
            self._journaled(record, Caller())
        for ino, inode in sorted(self.state.orphans.items(), key=lambda pair: pair[1].size):
            if self.is_open(ino):
                self._carry_if_small(inode)
        return self._carried_bytes

    def _carry_if_small(self, inode: Inode) -> None:
        if stat.S_ISREG(inode.mode) and self._carried_bytes + inode.size <= CARRIED_BYTES_MAX:
            self._carried_bytes += inode.size
            self._carry(inode, Caller())

    def _carry(self, inode: Inode, caller: Caller) -> None:
        for record in carried(self.state, inode):
            self._journaled(record, caller)
        self._ended.discard(inode.ino)


def _writers(state: State) -> Iterator[j.Writers]:
    inos = [ino for ino, (_, writable) in state.opens.items() if writable]
    for at in range(0, len(inos), _WRITERS_PER_RECORD):
        yield j.Writers(b"".join(ino.to_bytes(8, "little") for ino in inos[at : at + _WRITERS_PER_RECORD]))
