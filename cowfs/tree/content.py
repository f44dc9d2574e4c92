"""The canonical choice of how an inode's content, xattrs and links are stored. Everything that stores uses it.

=====================  =====================================================================================
file data              nothing allocated -> NONE (reads as zeros, whatever the size); else
                       size <= inline limit -> INLINE; size <= block size -> BLOCK, one block of exactly
                       ``size`` bytes; else TREE, a file map without entries for blocks that are all hole,
                       each block of min(block size, size - offset) bytes
symlink target         at most inline limit bytes -> INLINE, else BLOCK; mask 0
directory              TREE with the radix pointer of its entries; an empty one NONE
xattrs, links          in the record up to XATTRS_INLINE and LINKS_INLINE bytes, else a list of their own
=====================  =====================================================================================

A *mask* says which 4 KiB pages of one block are allocated (bit i: page i); bits behind the end of the file are
cleared and bytes of holes are zero, so equal files are stored equally whatever their history. ``block_log2`` is the
inode's block size; None means the geometry's.

``store_data(writer, geometry, size, file_blocks, block_log2=None) -> Content``
``ContentBatch(writer, geometry, done)``: ``store_data`` for many files, in batches that use all cores
``update_file(blocks, writer, geometry, old, old_size, new_size, dirty, kept=None, block_log2=None) -> Content``
``store_symlink(writer, geometry, target)``, ``directory_content(pointer)``
``read_block``, ``read_blocks``, ``read_symlink``, ``directory_pointer``: the way back
``finish_record(writer, record)``, ``record_xattrs``, ``record_links``, ``list_blocks``: lists out of line
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from cowfs.blocks.api import BlockSink, BlockSource
from cowfs.errors import Corrupt, Invalid
from cowfs.formats.inode import (
    BLOCK,
    EMPTY,
    ID_BYTES,
    INLINE,
    LINKS_INLINE,
    NONE,
    TREE,
    XATTRS_INLINE,
    XATTRS_MAX,
    Content,
    InodeRecord,
    decode_file_block,
    decode_links,
    decode_xattrs,
    encode_file_block,
    encode_links,
    encode_xattrs,
)
from cowfs.geometry import PAGE, Geometry
from cowfs.tree import radix

BATCH_BYTES = 8 << 20
"""Raw bytes that a batch collects before it stores them."""

LIST_PART = 128 * 1024
"""Bytes in one block of a links list that is longer than one block."""

_MANY = struct.Struct("<I").pack(0xFFFFFFFF)  # a count that no list has: the block lists the blocks of the list
_ZERO_PAGE = bytes(PAGE)

K = TypeVar("K")


class FileBlock(NamedTuple):
    """One block of a file: its number, its allocated pages, its bytes (short ones read as padded with zeros)."""

    number: int
    mask: int
    data: bytes


# -- file data: storing ------------------------------------------------------------------------------------------------


def store_data(
    writer: BlockSink, geometry: Geometry, size: int, file_blocks: Iterable[FileBlock], block_log2: int | None = None
) -> Content:
    """Store a whole regular file of ``size`` bytes; ``file_blocks`` in ascending order, holes left out or mask 0."""
    result: list[Content] = []
    batch: ContentBatch[None] = ContentBatch(writer, geometry, lambda _, content: result.append(content))
    batch.add(None, size, file_blocks, block_log2)
    batch.flush()
    return result[0]


class _File(Generic[K]):
    """A file whose blocks wait to be stored."""

    __slots__ = ("complete", "entries", "inline", "key", "kind", "waiting")

    def __init__(self, key: K, kind: int) -> None:
        self.key = key
        self.kind = kind
        self.entries: list[tuple[int, bytes]] = []  # block number, file map value
        self.inline = EMPTY
        self.waiting = 0
        self.complete = False


class ContentBatch(Generic[K]):
    """Stores the data of many files together: blocks are collected and handed to ``put_many``.

    ``done(key, content)`` is called once for each added file, during :meth:`add` or :meth:`flush`, in no promised
    order. Memory is bounded by ``batch_bytes`` and one block, and 40 bytes or so a block of the file being added.
    """

    def __init__(
        self,
        writer: BlockSink,
        geometry: Geometry,
        done: Callable[[K, Content], None],
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._writer = writer
        self._geometry = geometry
        self._done = done
        self._limit = batch_bytes
        self._raws: list[bytes] = []
        self._bytes = 0
        self._owners: list[tuple[_File[K], int, int]] = []

    def add(self, key: K, size: int, file_blocks: Iterable[FileBlock], block_log2: int | None = None) -> None:
        """Like :func:`store_data`. When ``file_blocks`` raises, the file is forgotten: ``done`` never sees it."""
        block_size = 1 << (self._geometry.block_log2 if block_log2 is None else block_log2)
        kind = shape(self._geometry, size, block_size)
        file = _File(key, kind)
        for number, mask, data in file_blocks:
            mask, data = _fit(mask, data, min(block_size, size - number * block_size))
            if not mask:
                continue
            if kind == INLINE:
                file.inline = Content(INLINE, mask, data)
                continue
            file.waiting += 1
            self._raws.append(data)
            self._owners.append((file, number, mask))
            self._bytes += len(data)
            if self._bytes >= self._limit:
                self.flush()
        file.complete = True
        if not file.waiting:
            self._finish(file)

    def flush(self) -> None:
        """Store everything collected."""
        raws, owners = self._raws, self._owners
        self._raws, self._owners, self._bytes = [], [], 0
        for block_id, (file, number, mask) in zip(self._writer.put_many(raws) if raws else (), owners, strict=True):
            file.entries.append((number, encode_file_block(mask, block_id)))
            file.waiting -= 1
            if file.complete and not file.waiting:
                self._finish(file)

    def _finish(self, file: _File[K]) -> None:
        if not file.entries:
            content = file.inline
        elif file.kind == BLOCK:
            content = Content(BLOCK, *decode_file_block(file.entries[0][1]))
        else:
            content = map_content(radix.build(self._writer, file.entries, self._geometry, inline=True))
        self._done(file.key, content)


def shape(geometry: Geometry, size: int, block_size: int) -> int:
    """The content kind of a file of ``size`` bytes with anything allocated."""
    if size <= geometry.inline_limit and size <= block_size:
        return INLINE
    return BLOCK if size <= block_size else TREE


def map_content(pointer: bytes) -> Content:
    """The content of a file (or directory) with this radix pointer."""
    return Content(TREE, 0, pointer) if pointer else EMPTY


directory_content = map_content


def _fit(mask: int, data: bytes, length: int) -> tuple[int, bytes]:
    """Cut or pad to ``length`` bytes, clear the mask behind them, and make the bytes of holes zero."""
    if length <= 0:
        return 0, b""
    full = (1 << -(-length // PAGE)) - 1
    mask &= full
    if not mask:
        return 0, b""
    if len(data) != length:
        data = data[:length].ljust(length, b"\0")
    if mask != full:
        for at in range(0, length, PAGE):
            page = data[at : at + PAGE]
            if not mask >> at // PAGE & 1 and page != _ZERO_PAGE[: len(page)]:
                data = data[:at] + bytes(len(page)) + data[at + PAGE :]
    return mask, data


# -- file data: changing -----------------------------------------------------------------------------------------------


def update_file(
    blocks: BlockSource,
    writer: BlockSink,
    geometry: Geometry,
    old: Content,
    old_size: int,
    new_size: int,
    dirty: Mapping[int, tuple[int, bytes]],
    kept: int | None = None,
    block_log2: int | None = None,
) -> Content:
    """The content of a changed file; the same as storing all of it anew, but reading and writing only what changed.

    ``dirty``: block number -> (mask, bytes), the *whole* new state of each changed block (mask 0: a hole); numbers
    behind the new end are ignored. ``kept``: bytes of the old content that count, for a file that was cut and has
    grown again; what lies behind is a hole unless dirty. Default: the smaller of both sizes.
    """
    log2 = geometry.block_log2 if block_log2 is None else block_log2
    block_size = 1 << log2
    kept = min(old_size, new_size, old_size if kept is None else kept)
    if old.kind != TREE or new_size <= block_size:
        merged = {n: FileBlock(n, mask, data) for n, (mask, data) in dirty.items() if n * block_size < new_size}
        if 0 not in merged and (block := read_block(blocks, old, old_size, 0, block_size)):
            merged[0] = FileBlock(0, *_fit(block.mask, block.data, min(kept, block_size)))
        return store_data(writer, geometry, new_size, (merged[n] for n in sorted(merged)), log2)
    dirty = dict(dirty)
    border = kept // block_size
    if border * block_size < kept and border not in dirty and _changes(border, kept, old_size, new_size, block_size):
        # the block where old content ends has another length now, or loses what lies behind ``kept``
        block = read_block(blocks, old, old_size, border, block_size)
        dirty[border] = _fit(block.mask, block.data, kept - border * block_size) if block else (0, b"")
    changes: dict[int, bytes | None] = {}
    if kept < old_size:
        changes |= {number: None for number, _ in radix.scan(blocks, old.data, -(-kept // block_size))}
    stored: list[tuple[int, int, bytes]] = []
    for number in sorted(dirty):
        mask, data = _fit(*dirty[number], min(block_size, new_size - number * block_size))
        if mask:
            stored.append((number, mask, data))
        else:
            changes[number] = None
        if len(stored) * block_size >= BATCH_BYTES:
            changes |= _store_blocks(writer, stored)
            stored = []
    changes |= _store_blocks(writer, stored)
    return map_content(radix.update(blocks, writer, old.data, changes, geometry, inline=True))


def _changes(number: int, kept: int, old_size: int, new_size: int, block_size: int) -> bool:
    """Whether block ``number``, where the old content that counts ends, is another block at the new size."""
    start = number * block_size
    old_length, new_length = min(block_size, old_size - start), min(block_size, new_size - start)
    return new_length != old_length or kept - start < old_length


def _store_blocks(writer: BlockSink, stored: list[tuple[int, int, bytes]]) -> dict[int, bytes]:
    ids = writer.put_many([data for _, _, data in stored]) if stored else []
    return {number: encode_file_block(mask, i) for (number, mask, _), i in zip(stored, ids, strict=True)}


# -- file data: reading ------------------------------------------------------------------------------------------------


def read_block(blocks: BlockSource, content: Content, size: int, number: int, block_size: int) -> FileBlock | None:
    """Block ``number`` of a regular file, or None where all of it is a hole. Raises :class:`Corrupt`."""
    length = min(block_size, size - number * block_size)
    if content.kind == NONE or length <= 0:
        return None
    if content.kind == TREE:
        value = radix.lookup(blocks, content.data, number)
        if value is None:
            return None
        mask, block_id = decode_file_block(value)
        return _checked(FileBlock(number, mask, blocks.get(block_id)), length)
    if number:
        raise Corrupt("file content: one block for a larger file")
    data = content.data if content.kind == INLINE else blocks.get(content.data)
    return _checked(FileBlock(0, content.mask, data), length)


def read_blocks(blocks: BlockSource, content: Content, size: int, block_size: int) -> Iterator[FileBlock]:
    """Every block of a regular file that is not all hole, in order. Raises :class:`Corrupt`."""
    if content.kind != TREE:
        block = read_block(blocks, content, size, 0, block_size)
        if block:
            yield block
        return
    for number, value in radix.scan(blocks, content.data):
        mask, block_id = decode_file_block(value)
        yield _checked(FileBlock(number, mask, blocks.get(block_id)), min(block_size, size - number * block_size))


def _checked(block: FileBlock, length: int) -> FileBlock:
    if len(block.data) != length:
        raise Corrupt(f"file content: block {block.number} has {len(block.data)} bytes, not {length}")
    return block


# -- symlinks and directories ------------------------------------------------------------------------------------------


def store_symlink(writer: BlockSink, geometry: Geometry, target: bytes) -> Content:
    """The content of a symbolic link."""
    if len(target) <= geometry.inline_limit:
        return Content(INLINE, 0, target)
    return Content(BLOCK, 0, writer.put(target))


def read_symlink(blocks: BlockSource, content: Content) -> bytes:
    """The target of a symbolic link. Raises :class:`Corrupt`."""
    if content.kind == INLINE:
        return content.data
    if content.kind == BLOCK:
        return blocks.get(content.data)
    raise Corrupt("symbolic link: no target")


def directory_pointer(content: Content) -> bytes:
    """The radix pointer of a directory's entries. Raises :class:`Corrupt`."""
    if content.kind == NONE:
        return b""
    if content.kind != TREE:
        raise Corrupt("directory: its content is no tree")
    return content.data


# -- xattrs and links --------------------------------------------------------------------------------------------------


def finish_record(writer: BlockSink, record: InodeRecord) -> InodeRecord:
    """Move xattrs and links that are too long for the record, given as pairs, to a list of their own.

    A list of at most 128 KiB is one block; a longer one (links only) is a block of u32 0xFFFFFFFF and the ids of its
    parts of 128 KiB. Raises :class:`Invalid` when the xattrs are over XATTRS_MAX bytes.
    """
    if record.xattrs:
        encoded = encode_xattrs(record.xattrs)
        if len(encoded) > XATTRS_MAX:
            raise Invalid(f"extended attributes: {len(encoded)} bytes, more than {XATTRS_MAX}")
        if len(encoded) > XATTRS_INLINE:
            record = record._replace(xattrs=None, xattrs_block=writer.put(encoded))
    if record.links:
        encoded = encode_links(record.links)
        if len(encoded) > LINKS_INLINE:
            if len(encoded) > LIST_PART:
                parts = [encoded[at : at + LIST_PART] for at in range(0, len(encoded), LIST_PART)]
                encoded = _MANY + b"".join(writer.put_many(parts))
            record = record._replace(links=None, links_block=writer.put(encoded))
    return record


def record_xattrs(blocks: BlockSource, record: InodeRecord) -> tuple[tuple[bytes, bytes], ...]:
    """The xattrs of an inode, wherever they are. Raises :class:`Corrupt`."""
    return decode_xattrs(blocks.get(record.xattrs_block)) if record.xattrs is None else record.xattrs


def record_links(blocks: BlockSource, record: InodeRecord) -> tuple[tuple[int, bytes], ...]:
    """The back references of an inode, wherever they are. Raises :class:`Corrupt`."""
    if record.links is not None:
        return record.links
    first = blocks.get(record.links_block)
    parts = _parts(first)
    return decode_links(b"".join(map(blocks.get, parts)) if parts else first)


def list_blocks(blocks: BlockSource, record: InodeRecord) -> list[bytes]:
    """The ids of all blocks that hold the xattrs and links of an inode. Raises :class:`Corrupt`."""
    ids = [record.xattrs_block] if record.xattrs_block else []
    if record.links_block:
        ids += [record.links_block, *_parts(blocks.get(record.links_block))]
    return ids


def _parts(first: bytes) -> list[bytes]:
    if not first.startswith(_MANY):
        return []
    if (len(first) - len(_MANY)) % ID_BYTES:
        raise Corrupt("link list: not whole ids")
    return [first[at : at + ID_BYTES] for at in range(len(_MANY), len(first), ID_BYTES)]
