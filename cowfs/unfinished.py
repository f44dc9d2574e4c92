"""Restores whose effect the kernel has not been told of: the process that made them died, or served no mount.

A kernel may go on for ever with what it cached before. So a successor tells it, of every inode and name that differs;
what it has to tell is journaled until that is done, since replay begins behind the restore from then on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from cowfs.compare import Changes, compare
from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from cowfs.view.state import State

_ENTRY = struct.Struct("<BQQB")
_INODE, _REVIVED, _NAME, _MOVED = range(4)
_RECORD_BYTES = 1024 * 1024


class Unfinished:
    """What the kernel may have cached that is not so any more. Used under the workspace's lock."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._revived: set[int] = set()
        self._names: dict[tuple[int, bytes], None] = {}
        self._moved: dict[int, tuple[int, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._inodes or self._names)

    def add(self, changes: Changes) -> None:
        """One more restore that changed this."""
        self._inodes.update(changes.inodes)
        self._revived.update(changes.revived)
        self._names.update(dict.fromkeys(changes.names))
        for ino, parent, name in changes.moved:
            self._moved[ino] = (parent, name)

    def clear(self) -> None:
        """The kernel has been told, or knows nothing."""
        self.__init__()  # type: ignore[misc]

    def changes(self, state: State) -> Changes:
        """What to tell, where the state is now ``state``."""
        found = {ino: state.find(ino) for ino in self._inodes}
        moved = [
            (ino, parent, name)
            for ino, (parent, name) in self._moved.items()
            if (inode := found.get(ino)) is not None and (parent, name) in inode.links
        ]
        return Changes(
            {ino: (None, inode) for ino, inode in found.items()},
            list(self._names),
            {ino for ino, inode in found.items() if inode is None},
            {ino for ino in self._revived if found.get(ino) is not None},
            moved,
        )

    def records(self) -> Iterator[j.Unfinished]:
        """The records that hold all of it."""
        entries = bytearray()
        for kind, ino, parent, name in self._entries():
            entries += _ENTRY.pack(kind, ino, parent, len(name)) + name
            if len(entries) >= _RECORD_BYTES:
                yield j.Unfinished(bytes(entries))
                entries.clear()
        if entries:
            yield j.Unfinished(bytes(entries))

    def _entries(self) -> Iterator[tuple[int, int, int, bytes]]:
        for ino in self._inodes:
            yield _REVIVED if ino in self._revived else _INODE, ino, 0, b""
        for parent, name in self._names:
            yield _NAME, 0, parent, name
        for ino, (parent, name) in self._moved.items():
            yield _MOVED, ino, parent, name

    def take(self, record: j.Unfinished) -> None:
        """Take in a record. Raises Corrupt for one that :meth:`records` does not make."""
        data, at = record.entries, 0
        while at < len(data):
            if at + _ENTRY.size > len(data):
                raise Corrupt("an entry of an unfinished restore is cut off")
            kind, ino, parent, length = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            name = data[at : at + length]
            at += length
            if len(name) != length or bool(name) != (kind in (_NAME, _MOVED)):
                raise Corrupt("an entry of an unfinished restore has no proper name")
            if kind in (_INODE, _REVIVED):
                self._inodes.add(ino)
                self._revived.update((ino,) if kind == _REVIVED else ())
            elif kind == _NAME:
                self._names[(parent, name)] = None
            elif kind == _MOVED:
                self._moved[ino] = (parent, name)
            else:
                raise Corrupt(f"an entry of an unfinished restore of kind {kind}")


class Replayed:
    """Watches a replay for restores that were not finished."""

    def __init__(self, unfinished: Unfinished) -> None:
        self._unfinished = unfinished
        self._restores: list[tuple[State, State]] = []

    def restored(self, before: State, after: State) -> None:
        """A Restore marker: one state follows another."""
        self._restores.append((before, after))

    def invalidated(self) -> None:
        """An Invalidated marker: all before it is done."""
        self._restores.clear()
        self._unfinished.clear()

    def end(self) -> bool:
        """The end of the journal; whether there is something of restores that no record says yet."""
        restores: Iterable[tuple[State, State]] = self._restores
        for before, after in restores:
            self._unfinished.add(compare(before, after))
        return bool(self._restores)
