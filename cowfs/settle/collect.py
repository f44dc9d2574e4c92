"""The child's part of garbage collection: find what no root needs, and copy what lies between garbage.

Which blocks were seen is kept in an LMDB file in the store's ``tmp``, so memory stays bounded however large a store is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import lmdb

from cowfs.blocks.environment import is_full
from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import read_segment, segment_path
from cowfs.blocks.writer import BlockWriter
from cowfs.errors import NoSpace
from cowfs.tree.walk import walk_inode, walk_root

MAP_BYTES = 64 << 30
"""Size of the sparse map: an upper bound, not disk space."""

_PER_TRANSACTION = 50_000
_PROGRESS_EVERY = 10_000

Progress = Callable[[int, int], None]
"""Called with (blocks seen, 0) now and then."""


class Marked(NamedTuple):
    """``garbage``: ids in the index that nothing needs; ``needed``: ids seen now for the first time.

    ``needed`` holds only those that are condemned, when everything is looked at.
    """

    garbage: list[bytes]
    needed: list[bytes]


class Marks:
    """The set of block ids seen so far, in the directory ``path``, which one process uses at a time."""

    def __init__(self, path: Path, progress: Progress) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self._env = lmdb.open(str(path), map_size=MAP_BYTES, sync=False, metasync=False, lock=False, mode=0o600)
        self._txn = self._env.begin(write=True)
        self._progress = progress
        self.new: list[bytes] | None = None
        self.seen = 0

    def visit(self, id_: bytes) -> bool:
        """See a block; False when it was seen before."""
        if not self._txn.put(id_, b"", overwrite=False):
            return False
        self.seen += 1
        if self.new is not None:
            self.new.append(id_)
        if not self.seen % _PER_TRANSACTION:
            self._txn.commit()
            self._txn = self._env.begin(write=True)
        if not self.seen % _PROGRESS_EVERY:
            self._progress(self.seen, 0)
        return True

    def __contains__(self, id_: bytes) -> bool:
        return self._txn.get(id_) is not None

    def close(self) -> None:
        """Keep the set."""
        try:
            self._txn.commit()
        finally:
            self._env.close()


def mark(
    blocks: BlockReader, index: BlockIndex, roots: Iterable[bytes], inodes: Iterable[bytes], path: Path,
    everything: bool, progress: Progress,
) -> Marked:  # fmt: skip
    """See everything below ``roots`` and ``inodes`` (inode records at rest, of open files without a name).

    ``everything``: the first look, so that the index has garbage where it has what was not seen. Raises Corrupt when
    a block that is needed cannot be read: nothing may be collected then. Raises NoSpace.
    """
    try:
        with closing(Marks(path, progress)) as marks:
            return _mark(marks, blocks, index, roots, inodes, everything)
    except lmdb.Error as error:
        if not is_full(error, path):
            raise
        raise NoSpace("no space left to find what is needed", hint="free some space, then try again") from error


def _mark(
    marks: Marks, blocks: BlockReader, index: BlockIndex, roots: Iterable[bytes], inodes: Iterable[bytes],
    everything: bool,
) -> Marked:  # fmt: skip
    marks.new = None if everything else []
    for root in roots:
        walk_root(blocks, root, marks.visit)
    for record in inodes:
        walk_inode(blocks, record, marks.visit)
    if marks.new is not None:
        return Marked([], marks.new)
    garbage, needed = [], []
    for id_, _, condemned in index.items():
        if id_ not in marks:
            garbage.append(id_)
        elif condemned:
            needed.append(id_)
    return Marked(garbage, needed)


def copy_live(writer: BlockWriter, index: BlockIndex, directory: Path, segments: Iterable[int]) -> int:
    """Write again what is alive in ``segments``; returns how many blocks. Damaged records stay where they are.

    Raises NoSpace, OSError.
    """
    copied = 0
    for segment in segments:
        for id_, location in read_segment(segment_path(directory, segment)).records:
            if index.get(id_) == location and index.has(id_):
                copied += writer.copy(id_, location)
    return copied
