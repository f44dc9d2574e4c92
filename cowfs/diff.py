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
        if parent == ROOT_INO:
            return name
        key = (id(state), parent)
        prefix = self._paths.get(key)
        if prefix is None:
            above, own = state.inode(parent).links[0]
            prefix = self._paths[key] = self.path(state, above, own)
        return prefix + b"/" + name


def difference(sides: Difference) -> list[Change]:
    """Every change, sorted by path. Raises Corrupt when a state cannot be read."""
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
        _compared(sides, path, sides.removed[path], sides.added[path])
    sides.changes += [Change("removed", path) for path in sides.removed.keys() - sides.added.keys()]
    sides.changes += [Change("added", path) for path in sides.added.keys() - sides.removed.keys()]
    return sorted(sides.changes, key=lambda change: (change.path, change.change))


def _same_file(sides: Difference, before: Inode, after: Inode) -> None:
    """One inode on both sides: its names, then what it holds."""
    gone = [link for link in before.links if link not in after.links]
    come = [link for link in after.links if link not in before.links]
    for (old_parent, old_name), (parent, name) in zip(gone, come, strict=False):
        old_path = sides.path(sides.old, old_parent, old_name)
        sides.changes.append(Change("renamed", sides.path(sides.new, parent, name), old_path))
    for parent, name in gone[len(come) :]:
        sides.removed[sides.path(sides.old, parent, name)] = before
    for parent, name in come[len(gone) :]:
        sides.added[sides.path(sides.new, parent, name)] = after
    kept = [link for link in after.links if link in before.links] or list(come[: len(gone)])
    if after.ino == ROOT_INO:
        _compared(sides, b"", before, after)
    for parent, name in kept[:1]:
        _compared(sides, sides.path(sides.new, parent, name), before, after)


def _compared(sides: Difference, path: bytes, before: Inode, after: Inode) -> None:
    """Report ``path`` when what it names differs."""
    if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
        sides.changes.append(Change("modified", path))
    elif before.is_dir:
        if (before.mode, before.uid, before.gid, before.xattrs) != (after.mode, after.uid, after.gid, after.xattrs):
            sides.changes.append(Change("metadata", path))
    elif (stat.S_ISREG(after.mode) or stat.S_ISLNK(after.mode)) and not same_content(before, after):
        sides.changes.append(Change("modified", path))
    elif not same_attributes(before, after):
        sides.changes.append(Change("metadata", path))


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
