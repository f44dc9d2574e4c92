"""The difference of two states as changed paths.

Inode numbers below the common ancestor's next inode number (``horizon``) mean the same file on both
sides, so a rename is seen; above it both sides gave out numbers on their own, and only paths count.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cowfs.compare import compare, same_attributes, same_content
from cowfs.geometry import ROOT_INO
from cowfs.results import Change
from cowfs.view.inode import Inode
from cowfs.view.state import State


class Difference:
    """The two sides, and the paths found so far."""

    def __init__(self, old: State, new: State, horizon: int) -> None:
        self.old = old
        self.new = new
        self.horizon = horizon
        self.removed: dict[bytes, Inode] = {}
        self.added: dict[bytes, Inode] = {}
        self.changes: list[Change] = []
        self._paths: dict[tuple[int, int], bytes] = {}

    def paths(self, state: State, inode: Inode) -> Iterator[bytes]:
        """Every path of an inode in one of the states."""
        if inode.ino == ROOT_INO:
            yield b""
        for parent, name in inode.links:
            yield self.path(state, parent, name)

    def path(self, state: State, parent: int, name: bytes) -> bytes:
        """The path of a name in a directory."""
        at, prefix = parent, None
        above: list[tuple[int, bytes]] = []
        while at != ROOT_INO:
            prefix = self._paths.get((id(state), at))
            if prefix is not None:
                break
            link = state.inode(at).links[0]
            above.append((at, link[1]))
            at = link[0]
        for ino, own in reversed(above):
            prefix = own if prefix is None else prefix + b"/" + own
            self._paths[id(state), ino] = prefix
        return name if prefix is None else prefix + b"/" + name


def difference(sides: Difference, limit: int | None = None) -> list[Change]:
    """Every change, or the first ``limit``, sorted by path. Raises Corrupt when a state cannot be read."""
    for ino, (before, after) in compare(sides.old, sides.new).inodes.items():
        before = before if before is not None and before.nlink else None
        after = after if after is not None and after.nlink else None
        if before is not None and after is not None and (ino < sides.horizon or ino == ROOT_INO):
            _same_file(sides, before, after)
            continue
        if before is not None and after is not None and before.is_dir and after.is_dir:
            _unrelated_directories(sides, before, after)
        if before is not None:
            sides.removed.update((path, before) for path in sides.paths(sides.old, before))
        if after is not None:
            sides.added.update((path, after) for path in sides.paths(sides.new, after))
    for path in sides.removed.keys() & sides.added.keys():
        how = _how(sides.removed[path], sides.added[path])
        if how is not None:
            sides.changes.append(Change(how, path))
    sides.changes += [Change("removed", path) for path in sides.removed.keys() - sides.added.keys()]
    sides.changes += [Change("added", path) for path in sides.added.keys() - sides.removed.keys()]
    return sorted(sides.changes, key=lambda change: (change.path, change.change))[:limit]


def _same_file(sides: Difference, before: Inode, after: Inode) -> None:
    """One inode on both sides: its names, then what it holds, by each of its names."""
    old, new = set(before.links), set(after.links)
    gone, come = sorted(old - new), sorted(new - old)
    moved = come[: len(gone)]
    for (old_parent, old_name), (parent, name) in zip(gone, moved, strict=False):
        old_path = sides.path(sides.old, old_parent, old_name)
        sides.changes.append(Change("renamed", sides.path(sides.new, parent, name), old_path))
    for parent, name in gone[len(come) :]:
        sides.removed[sides.path(sides.old, parent, name)] = before
    for parent, name in come[len(gone) :]:
        sides.added[sides.path(sides.new, parent, name)] = after
    how = _how(before, after)
    if how is None:
        return
    if after.ino == ROOT_INO:
        sides.changes.append(Change(how, b""))
    for parent, name in [*(old & new), *moved]:
        sides.changes.append(Change(how, sides.path(sides.new, parent, name)))


def _how(before: Inode, after: Inode) -> str | None:
    """How two inodes under one path differ: "modified", "metadata", or None when they do not."""
    if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
        return "modified"
    if before.is_dir:
        same = (before.mode, before.uid, before.gid, before.xattrs) == (after.mode, after.uid, after.gid, after.xattrs)
        return None if same else "metadata"
    if (stat.S_ISREG(after.mode) or stat.S_ISLNK(after.mode)) and not same_content(before, after):
        return "modified"
    return None if same_attributes(before, after) else "metadata"


def _unrelated_directories(sides: Difference, before: Inode, after: Inode) -> None:
    """Two directories that share only their number: what is below them moved with neither."""
    old_path, new_path = next(sides.paths(sides.old, before)), next(sides.paths(sides.new, after))
    if old_path != new_path:
        _subtree(sides.old, before, old_path, sides.removed)
        _subtree(sides.new, after, new_path, sides.added)


def _subtree(state: State, directory: Inode, path: bytes, found: dict[bytes, Inode]) -> None:
    pending = [(directory, path)]
    while pending:
        inode, prefix = pending.pop()
        for entry in state.directory(inode).entries(2):
            child = state.inode(entry.ino)
            found[prefix + b"/" + entry.name] = child
            if child.is_dir:
                pending.append((child, prefix + b"/" + entry.name))
