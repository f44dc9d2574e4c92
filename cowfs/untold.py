"""What a kernel may still show from before a restore: found again after a death, and journaled until it is told.

A restore that a death cut off between its marker and Invalidated has happened, but the kernel, whose mount lives on,
was told of nothing or of a part of it. Whoever replays the marker finds out what that is by comparing the state before
with what there is now. The control log then knows of the restore, and no later replay sees its marker again; so, while
the kernel is not told, what it must be told of is journaled in the live layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from cowfs.compare import Changes, compare
from cowfs.formats import journal as j
from cowfs.view.state import State

_NAMES_BYTES = 16 * 1024
_IN_PLACE, _BACK, _ELSEWHERE = 0, 1, 2


class Untold:
    """Of one workspace. Everything is done under its lock."""

    def __init__(self) -> None:
        self._befores: list[State] = []
        self._places: dict[int, int] = {}
        self._names: dict[tuple[int, bytes], None] = {}

    def __bool__(self) -> bool:
        return bool(self._befores or self._places)

    def restored(self, before: State) -> None:
        """A restore has left ``before``."""
        self._befores.append(before)

    def journaled(self, record: j.Stale) -> None:
        """A predecessor has found this out."""
        self._places[record.ino] = max(self._places.get(record.ino, _IN_PLACE), record.place)
        self._names.update(((record.ino, name), None) for name in record.names.split(b"\0") if name)

    def told(self) -> None:
        """The kernel knows everything, or there is none."""
        self._befores, self._places, self._names = [], {}, {}

    def find_out(self, now: State) -> None:
        """Compare what there was before each restore with ``now``."""
        for before in self._befores:
            changes = compare(before, now)
            for ino in changes.inodes:
                self._places.setdefault(ino, _IN_PLACE)
            self._places.update(dict.fromkeys(changes.revived, _BACK))
            self._places.update((ino, _ELSEWHERE) for ino, _, _ in changes.moved)
            self._names.update(dict.fromkeys(changes.names))
        self._befores = []

    def records(self) -> Iterator[j.Stale]:
        """What to journal, after :meth:`find_out`."""
        names: dict[int, list[bytes]] = {}
        for ino, name in self._names:
            names.setdefault(ino, []).append(name)
        for ino, place in self._places.items():
            some: list[bytes] = []
            size = 0
            for name in names.get(ino, ()):
                if size > _NAMES_BYTES:
                    yield j.Stale(ino, place, b"\0".join(some))
                    some, size = [], 0
                some.append(name)
                size += len(name) + 1
            yield j.Stale(ino, place, b"\0".join(some))

    def changes(self, now: State) -> Changes:
        """What to tell the kernel, after :meth:`find_out`."""
        changes = Changes(names=list(self._names))
        for ino, place in self._places.items():
            inode = now.find(ino)
            changes.inodes[ino] = (None, inode)
            if inode is None:
                changes.gone.add(ino)
            elif inode.is_dir and inode.links and place == _BACK:
                changes.revived.add(ino)
            elif inode.is_dir and inode.links and place == _ELSEWHERE:
                changes.moved.append((ino, *inode.links[0]))
        changes.moved.sort(key=lambda moved: now.depth(moved[0]))
        return changes
