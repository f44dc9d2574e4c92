"""A stored tree as an export reads it: inodes, names in order, paths, and where the data of files lies."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cowfs.blocks.api import BlockSource
from cowfs.errors import Corrupt
from cowfs.formats.inode import TREE, Dirent, InodeRecord, decode_dirent, decode_file_block, decode_inode
from cowfs.geometry import PAGE, ROOT_INO
from cowfs.tree import radix
from cowfs.tree.content import directory_pointer
from cowfs.tree.root import read_root

DIRECTORY = stat.S_IFDIR >> 12
"""A directory's type, as a directory entry has it."""


class StoredTree:
    """What lies below ``root``. Everything raises Corrupt for what is damaged."""

    def __init__(self, blocks: BlockSource, root: bytes) -> None:
        self.blocks = blocks
        self.table = read_root(blocks, root)

    def inode(self, ino: int) -> InodeRecord:
        """The record of an inode that the tree has."""
        value = radix.lookup(self.blocks, self.table, ino)
        if value is None:
            raise Corrupt(f"inode {ino} is not in the root", hint="run cowfs fsck")
        return decode_inode(value)

    def entries(self, directory: InodeRecord) -> list[tuple[bytes, Dirent]]:
        """(name, entry) of everything in a directory, sorted by name."""
        pointer = directory_pointer(directory.content)
        found = [decode_dirent(cookie, value) for cookie, value in radix.scan(self.blocks, pointer)]
        return sorted((entry.name, entry) for entry in found)

    def walk(self, path: bytes = b"", ino: int = ROOT_INO) -> Iterator[tuple[bytes, int]]:
        """(path, inode) of a directory and everything below, a directory before what is in it, names sorted. The root's
        path is empty."""
        todo: list[tuple[bytes, int, int]] = [(path, ino, DIRECTORY)]
        while todo:
            path, ino, kind = todo.pop()
            yield path, ino
            if kind == DIRECTORY:
                prefix = path + b"/" if path else b""
                found = self.entries(self.inode(ino))
                todo += [(prefix + name, entry.ino, entry.kind) for name, entry in reversed(found)]

    def regions(self, record: InodeRecord) -> list[tuple[int, int]]:
        """(offset, length) of the allocated pages of a file, those that touch joined."""
        size, block = record.size, 1 << record.block_log2
        found: list[tuple[int, int]] = []
        for number, mask in self._masks(record):
            for page in range(mask.bit_length()):
                at = number * block + page * PAGE
                if mask >> page & 1 and at < size:
                    length = min(PAGE, size - at)
                    if found and found[-1][0] + found[-1][1] == at:
                        found[-1] = (found[-1][0], found[-1][1] + length)
                    else:
                        found.append((at, length))
        return found

    def _masks(self, record: InodeRecord) -> Iterator[tuple[int, int]]:
        content = record.content
        if content.kind == TREE:
            for number, value in radix.scan(self.blocks, content.data):
                yield number, decode_file_block(value)[0]
        elif content.mask:
            yield 0, content.mask
