"""What one tree has over another, as a layer of an image says it (OCI image specification, "Image Layer Filesystem
Changeset"): entries that are new or changed, whiteouts, opaque directories.

Both trees are of one line: an inode number means the same file in both. In a layer are

- what is new, has another inode than before, or differs in what an archive keeps; below a new directory, everything;
- all names of a file of which one name is in it, or a container runtime would take the names apart;
- the directories above, or unpacking what is in them would change their times;
- a whiteout for a name that is gone; a directory that is another one than before is opaque.

Reads what differs, and the way down to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from cowfs.errors import Corrupt
from cowfs.formats.inode import Dirent, InodeRecord, decode_dirent, decode_inode
from cowfs.geometry import ROOT_INO
from cowfs.settle.imagelayers import OPAQUE, WHITEOUT
from cowfs.settle.readtree import DIRECTORY, StoredTree
from cowfs.tree import radix
from cowfs.tree.content import directory_pointer, record_links, record_xattrs

MARK = 0
"""Stands for the inode of an entry that is a whiteout or makes a directory opaque."""

SOCKET = 0o140000 >> 12

Skip = Callable[[bytes, str], None]
Names = tuple[bytes, ...]


def layer_entries(old: StoredTree | None, new: StoredTree, skip: Skip) -> Iterator[tuple[bytes, int]]:
    """(path, inode, or MARK) of what the layer has, a directory before what is in it, whiteouts before their siblings.
    ``old`` None: nothing was there, the layer has everything.

    ``skip(path, reason)`` is called for what no layer can have. Raises Corrupt.
    """
    if old is None:
        yield from _walk(new, (), ROOT_INO, skip)
        return
    difference = _Difference(old, new, skip)
    difference.run()
    yield from ((b"/".join(names), ino) for names, ino in sorted(difference.found.items(), key=_order))


def _walk(tree: StoredTree, names: Names, ino: int, skip: Skip) -> Iterator[tuple[bytes, int]]:
    """Everything from a directory down. See :func:`layer_entries`."""
    todo: list[tuple[Names, int, int]] = [(names, ino, DIRECTORY)]
    while todo:
        names, ino, kind = todo.pop()
        yield b"/".join(names), ino
        if kind == DIRECTORY:
            for name, entry in reversed(tree.entries(tree.inode(ino))):
                if _can_be((*names, name), entry, skip):
                    todo.append(((*names, name), entry.ino, entry.kind))


def _can_be(names: Names, entry: Dirent, skip: Skip) -> bool:
    """Whether a layer can have the entry; ``skip`` is told when not."""
    path = b"/".join(names)
    if names[-1].startswith(WHITEOUT):
        skip(path, f"a name that begins with {os.fsdecode(WHITEOUT)} means a removal in an image")
    elif entry.kind == SOCKET:
        skip(path, "a socket is not kept in an archive")
    else:
        return True
    return False


def _order(item: tuple[Names, int]) -> list[tuple[bool, bytes]]:
    return [(not name.startswith(WHITEOUT), name) for name in item[0]]


class _Difference:
    def __init__(self, old: StoredTree, new: StoredTree, skip: Skip) -> None:
        self._old = old
        self._new = new
        self._skip = skip
        self.found: dict[Names, int] = {}
        self._changed: dict[int, tuple[InodeRecord | None, InodeRecord | None]] = {}
        self._touched: dict[int, dict[bytes, int]] = {ROOT_INO: {}}  # directory -> names on the way to what differs
        self._whole: set[int] = set()  # inodes all of whose names are in the layer
        self._directories: dict[Names, int] = {(): ROOT_INO}  # those that are the same in both trees
        self._skipped: dict[bytes, str] = {}

    def run(self) -> None:
        for ino, before, after in radix.diff(self._new.blocks, self._old.table, self._new.table):
            old = None if before is None else decode_inode(before)
            new = None if after is None else decode_inode(after)
            self._changed[ino] = (old, new)
            if new is not None and new.nlink:
                self._touch(ino, new)
                if old is None or not self._same(old, new):
                    self._whole.add(ino)
        seen = -1
        while seen != len(self._whole):  # a file that is taken in has names elsewhere, which are looked at then
            seen = len(self._whole)
            self.found, self._skipped = {}, {}
            self._compare()
        for names in list(self.found):
            for depth in range(len(names)):
                if names[:depth] not in self.found:
                    self.found[names[:depth]] = self._directories[names[:depth]]
        for path, reason in self._skipped.items():
            self._skip(path, reason)

    def _same(self, old: InodeRecord, new: InodeRecord) -> bool:
        """Whether an archive would have the same of both, and the new one has no name that the old one has not."""
        if (old.mode, old.uid, old.gid, old.rdev, old.mtime) != (new.mode, new.uid, new.gid, new.rdev, new.mtime):
            return False
        if record_xattrs(self._new.blocks, old) != record_xattrs(self._new.blocks, new):
            return False
        if new.mode >> 12 == DIRECTORY:
            return True
        links, before = record_links(self._new.blocks, new), record_links(self._new.blocks, old)
        return (old.size, old.content) == (new.size, new.content) and set(links) <= set(before)

    def _touch(self, ino: int, record: InodeRecord) -> None:
        """Have :meth:`_compare` come by all names of an inode."""
        for parent, name in record_links(self._new.blocks, record):
            at = ino
            while name not in self._touched.setdefault(parent, {}):
                self._touched[parent][name] = at
                if parent == ROOT_INO:
                    break
                above = record_links(self._new.blocks, self._new.inode(parent))
                if not above:
                    raise Corrupt(f"directory {parent} has no name", hint="run cowfs fsck")
                at, (parent, name) = parent, above[0]

    def _compare(self) -> None:
        """Walk through directories that are the same in both trees, along what differs."""
        if ROOT_INO in self._whole:
            self.found[()] = ROOT_INO
        todo: list[tuple[Names, int]] = [((), ROOT_INO)]
        while todo:
            names, directory = todo.pop()
            self._directories[names] = directory
            before, after = self._names(directory)
            for name in sorted(before.keys() | after.keys()):
                path = (*names, name)
                old, new = before.get(name), after.get(name)
                if new is None or not _can_be(path, new, self._skipped.__setitem__):
                    if old is not None and old.kind != SOCKET and not name.startswith(WHITEOUT):
                        self.found[(*names, WHITEOUT + name)] = MARK
                elif old is None or old.ino != new.ino:
                    self._take(path, new, opaque=old is not None and old.kind == DIRECTORY)
                else:
                    if new.ino in self._whole:
                        self.found[path] = new.ino
                    if new.kind == DIRECTORY:
                        todo.append((path, new.ino))

    def _names(self, directory: int) -> tuple[dict[bytes, Dirent], dict[bytes, Dirent]]:
        """What to look at in a directory, in the old tree and in the new one."""
        before: dict[bytes, Dirent] = {}
        after: dict[bytes, Dirent] = {}
        old, new = self._changed.get(directory, (None, None))
        if old is not None and new is not None:
            pointers = directory_pointer(old.content), directory_pointer(new.content)
            for cookie, left, right in radix.diff(self._new.blocks, *pointers):
                for value, names in ((left, before), (right, after)):
                    if value is not None:
                        entry = decode_dirent(cookie, value)
                        names[entry.name] = entry
        for name, ino in self._touched.get(directory, {}).items():
            if name not in before and name not in after:
                before[name] = after[name] = Dirent(0, ino, self._new.inode(ino).mode >> 12, name)
        return before, after

    def _take(self, path: Names, entry: Dirent, *, opaque: bool) -> None:
        """Take in something that was not there before, or was something else."""
        if entry.kind != DIRECTORY:
            self.found[path] = entry.ino
            self._take_in(entry.ino)
            return
        if opaque:
            self.found[(*path, OPAQUE)] = MARK
        for below, ino in _walk(self._new, path, entry.ino, self._skipped.__setitem__):
            self.found[tuple(below.split(b"/"))] = ino
            self._take_in(ino)

    def _take_in(self, ino: int) -> None:
        if ino not in self._whole:
            record = self._new.inode(ino)
            if record.mode >> 12 != DIRECTORY and record.nlink > 1:
                self._whole.add(ino)
                self._touch(ino, record)
