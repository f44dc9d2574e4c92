"""What must hold of one inode record by itself, its content and out-of-line lists included."""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator, MutableMapping

from cowfs.errors import CowfsError
from cowfs.formats.inode import (
    BLOCK,
    INLINE,
    LINKS_INLINE,
    NONE,
    TREE,
    XATTRS_INLINE,
    XATTRS_MAX,
    InodeRecord,
    decode_file_block,
    encode_inode,
    encode_links,
    encode_xattrs,
)
from cowfs.fsck.watched import DamagedBlock, Lost, Watched, scan_around
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, PAGE, ROOT_INO, SECTOR, Geometry
from cowfs.tree import radix
from cowfs.tree.content import LIST_PART, list_blocks, record_links, record_xattrs

_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_KINDS = ("no content", "inline content", "one block", "a tree")
_TARGET_MAX = 4095

Seen = MutableMapping[tuple[bytes, int], None]
"""Data blocks that were read and found right, with their mask: they need not be read again."""


def check_inode(
    blocks: Watched, geometry: Geometry, ino: int, value: bytes, record: InodeRecord, seen: Seen | None
) -> Iterator[str]:
    """Everything that is wrong with an inode's record, but for damaged blocks, which ``blocks`` notes.

    ``seen`` None: data blocks are not read, only missed.
    """
    kind = stat.S_IFMT(record.mode)
    if kind not in _TYPES or record.mode >> 16:
        yield f"impossible mode {record.mode:#o}"
        return
    if encode_inode(record) != value:
        yield "its record is not in canonical form"
    if record.rdev and kind not in _DEVICES:
        yield "a device number on what is no device"
    if ino == ROOT_INO and kind != stat.S_IFDIR:
        yield "the root is not a directory"
    yield from _check_xattrs(blocks, record)
    yield from _check_links_place(blocks, record)
    if kind == stat.S_IFREG:
        yield from _check_file(blocks, geometry, record, seen)
    elif kind == stat.S_IFDIR:
        yield from _check_directory(blocks, geometry, record)
    elif kind == stat.S_IFLNK:
        yield from _check_symlink(blocks, geometry, record)
    elif record.content.kind != NONE or record.size or record.blocks:
        yield "a special file with content, size or blocks"


def _check_xattrs(blocks: Watched, record: InodeRecord) -> Iterator[str]:
    try:
        xattrs = record_xattrs(blocks, record)
    except DamagedBlock:
        return
    except CowfsError as error:
        yield f"extended attributes: {error.message}"
        return
    size = len(encode_xattrs(xattrs))
    if (record.xattrs is None) != (size > XATTRS_INLINE) or size > XATTRS_MAX:
        yield f"extended attributes of {size} bytes in the wrong place"
    for name, _ in xattrs:
        if b"\0" in name or len(name) > 255:
            yield "an impossible extended attribute name"


def _check_links_place(blocks: Watched, record: InodeRecord) -> Iterator[str]:
    try:
        size = len(encode_links(record_links(blocks, record)))
        parts = len(list_blocks(blocks, record)) - bool(record.xattrs_block) - bool(record.links_block)
    except DamagedBlock:
        return
    except CowfsError as error:
        yield f"links: {error.message}"
        return
    if (record.links is None) != (size > LINKS_INLINE):
        yield f"links of {size} bytes in the wrong place"
    elif parts != (-(-size // LIST_PART) if size > LIST_PART else 0):
        yield f"links of {size} bytes in {parts} parts"


# ---- regular files


def _check_file(blocks: Watched, geometry: Geometry, record: InodeRecord, seen: Seen | None) -> Iterator[str]:
    content, size, block_size = record.content, record.size, 1 << record.block_log2
    allocated = 0
    if content.kind == TREE:
        allocated = yield from _check_map(blocks, geometry, record, seen)
        right = TREE if size > block_size else BLOCK
    elif content.kind == NONE:
        right = NONE
    else:
        data = content.data if content.kind == INLINE else None
        yield from _check_block(blocks, 0, content.mask, content.data, data, min(size, block_size), seen)
        allocated = content.mask.bit_count()
        right = TREE if size > block_size else INLINE if size <= geometry.inline_limit else BLOCK
    if content.kind != right:
        yield f"a file of {size} bytes with {_KINDS[content.kind]}, not {_KINDS[right]}"
    if allocated >= 0 and record.blocks != allocated * (PAGE // SECTOR):
        yield f"{record.blocks} blocks, but {allocated} pages are allocated"


def _check_map(
    blocks: Watched, geometry: Geometry, record: InodeRecord, seen: Seen | None
) -> Generator[str, None, int]:
    """Checks the file map; returns how many pages are allocated, or -1 when not all of it can be read."""
    allocated, block_size = 0, 1 << record.block_log2
    lost: list[Lost] = []
    yield from blocks.check_tree(record.content.data, geometry, inline=True)
    try:
        if not radix.count(record.content.data):
            yield "an empty file map"
        for number, value in scan_around(blocks, record.content.data, lost):
            mask, block_id = decode_file_block(value)
            allocated += mask.bit_count()
            length = min(block_size, record.size - number * block_size)
            if length <= 0:
                yield f"block {number} lies behind the end"
                continue
            yield from _check_block(blocks, number, mask, block_id, None, length, seen)
    except CowfsError as error:
        yield f"file map: {error.message}"
    return -1 if lost else allocated


def _check_block(
    blocks: Watched, number: int, mask: int, block_id: bytes, data: bytes | None, length: int, seen: Seen | None
) -> Iterator[str]:
    """One block of a file: its mask lies within ``length`` bytes, it is as long, and holes are zero.

    ``data`` None: the block is read by its id, unless ``seen`` is None or knows it with the same mask.
    """
    pages = -(-length // PAGE)
    if not mask or mask >> pages:
        yield f"block {number}: impossible page mask {mask:#x} for {length} bytes"
    if data is None:
        if seen is None:
            blocks.probe(block_id)
            return
        if (block_id, mask | length << 32) in seen:
            return
        try:
            data = blocks.get(block_id)
        except DamagedBlock:
            return
        seen[block_id, mask | length << 32] = None
    if len(data) != length:
        yield f"block {number} has {len(data)} bytes, not {length}"
    for page in range(pages):
        if not mask >> page & 1 and data[page * PAGE : (page + 1) * PAGE].strip(b"\0"):
            yield f"block {number}: page {page} is a hole with data in it"


# ---- directories and symbolic links


def _check_directory(blocks: Watched, geometry: Geometry, record: InodeRecord) -> Iterator[str]:
    if (record.size, record.blocks) != (DIRECTORY_SIZE, DIRECTORY_BLOCKS):
        yield f"a directory of {record.size} bytes and {record.blocks} blocks"
    if record.content.kind == NONE:
        return
    if record.content.kind != TREE or record.content.mask:
        yield f"a directory with {_KINDS[record.content.kind]} or a page mask"
        return
    yield from blocks.check_tree(record.content.data, geometry, inline=True)
    if record.content.data == b"":
        yield "an empty directory with a tree"


def _check_symlink(blocks: Watched, geometry: Geometry, record: InodeRecord) -> Iterator[str]:
    content = record.content
    right = INLINE if record.size <= geometry.inline_limit else BLOCK
    if content.kind != right or content.mask or record.blocks:
        yield f"a link target of {record.size} bytes with {_KINDS[content.kind]}, a page mask or blocks"
        return
    try:
        target = content.data if content.kind == INLINE else blocks.get(content.data)
    except DamagedBlock:
        return
    if len(target) != record.size or not 0 < len(target) <= _TARGET_MAX or b"\0" in target:
        yield f"an impossible link target of {len(target)} bytes, size {record.size}"
