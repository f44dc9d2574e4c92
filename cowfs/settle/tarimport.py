"""Import of a tar archive, compressed or not: the same tree as an extraction of it would give, and the same root.

Everything in the archive is hostile: see :mod:`.tarread` and :mod:`.imagetree` for what is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack

from cowfs.blocks.api import BlockSink
from cowfs.errors import Invalid, NotFound
from cowfs.formats.inode import NAME_MAX, Content
from cowfs.geometry import PAGE, Geometry
from cowfs.settle.imagetree import ACLS, ImageTree, Node, checked_xattrs
from cowfs.settle.importer import ImportResult, Progress
from cowfs.settle.records import Attributes
from cowfs.settle.tarread import Entry, Reader
from cowfs.settle.unpacking import Ahead, Unpacked
from cowfs.tree.content import ContentBatch, FileBlock, store_symlink

LIMIT_BYTES = 100 << 30
"""Bytes of an archive, unpacked, at most, when nobody says otherwise."""

TARGET_MAX = 4095

NOTES_MAX = 1_000
"""Things left out of one archive that are told one by one."""


def import_tar(
    writer: BlockSink, path: bytes, geometry: Geometry, limit: int = LIMIT_BYTES, progress: Progress | None = None
) -> ImportResult:
    """Import the archive at ``path``. Raises NotFound, Invalid (no archive, hostile, or too large), NoSpace."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open(path, "rb"))
        except FileNotFoundError as error:
            raise NotFound(f"{os.fsdecode(path)}: {error.strerror}") from None
        except OSError as error:
            raise Invalid(f"{os.fsdecode(path)}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Invalid(f"{os.fsdecode(path)}: not a regular file")
        stream = Unpacked(file, limit)
        taking = TarLayer(writer, geometry, ImageTree(), progress)
        taking.take(stream)
        stream.drain()
        return taking.result()


class TarLayer:
    """Takes the entries of an archive into a tree."""

    def __init__(
        self, writer: BlockSink, geometry: Geometry, tree: ImageTree, progress: Progress | None = None
    ) -> None:
        self._writer = writer
        self._geometry = geometry
        self._tree = tree
        self._progress = progress or (lambda files, size: None)
        self._batch: ContentBatch[Node] = ContentBatch(writer, geometry, _stored)
        self.skipped: list[tuple[bytes, str]] = []
        self._entries = 0

    def take(self, stream: Unpacked | Ahead) -> None:
        """Every entry of an archive."""
        reader = Reader(stream)
        for entry in reader:
            self._entries += 1
            self._take(entry, reader)
            if not self._entries % 256:
                self._progress(self._entries, stream.read_bytes)
        self._batch.flush()

    def result(self) -> ImportResult:
        """Store the tree."""
        done = self._tree.store(self._writer, self._geometry, self._progress)
        return ImportResult(done.root, done.files, done.bytes, done.logical_bytes, done.next_ino, tuple(self.skipped))

    def _take(self, entry: Entry, reader: Reader) -> None:
        path, kind = entry.path, entry.kind
        if not kind:
            node = self._tree.find(entry.target)
            if node.children is not None:
                raise Invalid(f"{os.fsdecode(path)!r} is a link to a directory")
            self._tree.put(path, node)
            return
        node = Node(
            Attributes(
                kind | entry.mode, entry.uid, entry.gid, entry.mtime, entry.rdev, entry.size, 0, self._xattrs(entry)
            )
        )
        if kind == stat.S_IFLNK:
            if not 0 < len(entry.target) <= TARGET_MAX:
                raise Invalid(f"{os.fsdecode(path)!r} is a symbolic link to nothing, or too long a one")
            node.attributes = node.attributes._replace(mode=kind | 0o777, size=len(entry.target))
            node.target = entry.target
            node.content = store_symlink(self._writer, self._geometry, entry.target)
        self._tree.put(path, node)
        if kind == stat.S_IFREG:
            pages = [0]
            self._batch.add(node, entry.size, self._blocks(entry, reader, pages))
            node.attributes = node.attributes._replace(pages=pages[0])

    def _xattrs(self, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
        found = tuple((name, value) for name, value in entry.xattrs if value or name not in ACLS)
        kept = checked_xattrs(found, entry.path)
        for name, _ in entry.xattrs:
            if name not in dict(kept):
                self._skip(entry.path, f"the extended attribute {os.fsdecode(name[:NAME_MAX])} is not kept")
        return kept

    def _skip(self, path: bytes, reason: str) -> None:
        if len(self.skipped) < NOTES_MAX:
            self.skipped.append((path, reason))
        elif len(self.skipped) == NOTES_MAX:
            self.skipped.append((path, "more is left out from here on, which is not told one by one"))

    def _blocks(self, entry: Entry, reader: Reader, pages: list[int]) -> Iterator[FileBlock]:
        """The blocks of a file; ``pages[0]`` counts what they allocate."""
        size = 1 << self._geometry.block_log2
        regions = ((0, entry.size),) if entry.regions is None else entry.regions
        number, mask, data = -1, 0, bytearray()
        for offset, length in regions:
            while length:
                block, within = divmod(offset, size)
                if block != number:
                    if mask:
                        pages[0] += mask.bit_count()
                        yield FileBlock(number, mask, bytes(data))
                    number, mask, data = block, 0, bytearray(min(size, entry.size - block * size))
                take = min(length, size - within)
                data[within : within + take] = reader.data(take)
                mask |= (1 << -(-(within + take) // PAGE)) - (1 << within // PAGE)
                offset, length = offset + take, length - take
        if mask:
            pages[0] += mask.bit_count()
            yield FileBlock(number, mask, bytes(data))


def _stored(node: Node, content: Content) -> None:
    node.content = content


def source_of(text: bytes) -> tuple[str, bytes]:
    """(kind, path) of what an import is asked for: ``tar:FILE``, ``dir:PATH``, or a path."""
    for kind in ("tar", "dir"):
        prefix = kind.encode() + b":"
        if text.startswith(prefix):
            return kind, text[len(prefix) :]
    return "dir", text
