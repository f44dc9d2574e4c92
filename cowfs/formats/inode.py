"""Inode record, content and directory entry: ``bytes <-> frozen dataclass``, no I/O (docs/format.md).

Invariants:
- equal records encode to equal bytes (the canonical tree depends on it);
- ``links`` is sorted and without repeats, ``xattrs`` sorted by name;
- decoding raises :class:`Corrupt` on any malformed byte string, never anything else.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cowfs.errors import Corrupt

NAME_MAX = 255
"""Bytes in a file name at most (NAME_MAX of Linux)."""

XATTRS_INLINE = 2048
"""Encoded bytes of xattrs up to which they live in the inode record."""

XATTRS_MAX = 128 * 1024
"""Encoded bytes of all xattrs of one inode at most: they fit one block."""

LINKS_INLINE = 1024
"""Encoded bytes of back references up to which they live in the inode record."""

ID_BYTES = 32


class Content(NamedTuple):
    """What an inode holds at rest.

    ``kind`` NONE: nothing. INLINE: ``data`` is the file data or symlink target. BLOCK: ``data`` is one
    block id. TREE: ``data`` is an encoded radix pointer (a file map or a directory).
    ``mask``: for INLINE and BLOCK of regular files, bit i says that page i is allocated (not a hole).
    """

    kind: int
    mask: int
    data: bytes


NONE, INLINE, BLOCK, TREE = 0, 1, 2, 3
EMPTY = Content(NONE, 0, b"")


class InodeRecord(NamedTuple):
    """One inode at rest. Times are ns since the epoch; ``blocks`` counts 512-byte units.

    ``xattrs`` and ``links`` hold the decoded pairs, or are None when ``xattrs_block`` / ``links_block``
    names the block that holds them (:func:`encode_xattrs`, :func:`encode_links`).
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blocks: int
    block_log2: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    xattrs: tuple[tuple[bytes, bytes], ...] | None
    links: tuple[tuple[int, bytes], ...] | None
    content: Content
    xattrs_block: bytes = b""
    links_block: bytes = b""


_FIXED = struct.Struct("<BIIIIQQQBqqqqBBI")
# flags, mode, uid, gid, nlink, rdev, size, blocks, block_log2, atime, mtime, ctime, btime,
# reserved (0), content kind, content mask
_FLAG_XATTRS_BLOCK, _FLAG_LINKS_BLOCK = 1, 2
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_LINK = struct.Struct("<QH")
_XATTR = struct.Struct("<HI")
_ONE_LINK = _U16.pack(0) + _U32.pack(1)  # no xattr and one back reference, as in nearly every record


def encode_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Pairs (name, value), sorted by name -> u16 count, then per pair u16, u32, name, value."""
    parts = [_U16.pack(len(xattrs))]
    for name, value in xattrs:
        parts += (_XATTR.pack(len(name), len(value)), name, value)
    return b"".join(parts)


def encode_links(links: tuple[tuple[int, bytes], ...]) -> bytes:
    """Pairs (parent inode, name), sorted -> u32 count, then per pair u64, u16, name."""
    parts = [_U32.pack(len(links))]
    for parent, name in links:
        parts += (_LINK.pack(parent, len(name)), name)
    return b"".join(parts)


def decode_xattrs(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The inverse of :func:`encode_xattrs`; the bytes must be used up exactly."""
    xattrs, end = _xattrs_at(data, 0)
    if end != len(data):
        raise Corrupt("xattr list: bytes left over")
    return xattrs


def decode_links(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The inverse of :func:`encode_links`; the bytes must be used up exactly."""
    links, end = _links_at(data, 0)
    if end != len(data):
        raise Corrupt("link list: bytes left over")
    return links


def encode_inode(record: InodeRecord) -> bytes:
    """One inode record, canonical."""
    flags = (_FLAG_XATTRS_BLOCK if record.xattrs_block else 0) | (_FLAG_LINKS_BLOCK if record.links_block else 0)
    content = record.content
    head = _FIXED.pack(
        flags, record.mode, record.uid, record.gid, record.nlink, record.rdev, record.size, record.blocks,
        record.block_log2, record.atime, record.mtime, record.ctime, record.btime, 0, content.kind, content.mask,
    )  # fmt: skip
    xattrs = record.xattrs_block or encode_xattrs(record.xattrs or ())
    links = record.links_block or encode_links(record.links or ())
    return b"".join((head, xattrs, links, content.data))


def decode_inode(data: bytes) -> InodeRecord:
    """The inverse of :func:`encode_inode`. Raises :class:`Corrupt`."""
    try:
        (
            flags, mode, uid, gid, nlink, rdev, size, blocks, block_log2, atime, mtime, ctime, btime, zero, kind, mask,
        ) = _FIXED.unpack_from(data)  # fmt: skip
    except struct.error:
        raise Corrupt("inode record: too short") from None
    if flags > 3 or zero or kind > TREE or not 12 <= block_log2 <= 17:
        raise Corrupt("inode record: unknown flag, content kind or block size")
    at = _FIXED.size
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    links: tuple[tuple[int, bytes], ...] | None = None
    xattrs_block = links_block = b""
    if not flags and data.startswith(_ONE_LINK, at):
        xattrs = ()
        link, at = _link_at(data, at + len(_ONE_LINK))
        links = (link,)
    else:
        if flags & _FLAG_XATTRS_BLOCK:
            xattrs_block, at = data[at : at + ID_BYTES], at + ID_BYTES
        else:
            xattrs, at = _xattrs_at(data, at)
        if flags & _FLAG_LINKS_BLOCK:
            links_block, at = data[at : at + ID_BYTES], at + ID_BYTES
        else:
            links, at = _links_at(data, at)
    if at > len(data):
        raise Corrupt("inode record: too short")
    content = Content(kind, mask, data[at:]) if kind else EMPTY
    if (kind == NONE and (mask or at != len(data))) or (kind == BLOCK and len(content.data) != ID_BYTES):
        raise Corrupt("inode record: content does not fit its kind")
    return InodeRecord(
        mode, uid, gid, nlink, rdev, size, blocks, block_log2, atime, mtime, ctime, btime,
        xattrs, links, content, xattrs_block, links_block,
    )  # fmt: skip


def _xattrs_at(data: bytes, at: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    try:
        (count,) = _U16.unpack_from(data, at)
        at += 2
        pairs: list[tuple[bytes, bytes]] = []
        for _ in range(count):
            name_len, value_len = _XATTR.unpack_from(data, at)
            at += _XATTR.size
            name, value = data[at : at + name_len], data[at + name_len : at + name_len + value_len]
            at += name_len + value_len
            if not name or at > len(data) or (pairs and pairs[-1][0] >= name):
                raise Corrupt("xattr list: out of bounds or not sorted")
            pairs.append((name, value))
    except struct.error:
        raise Corrupt("xattr list: too short") from None
    return tuple(pairs), at


def _links_at(data: bytes, at: int) -> tuple[tuple[tuple[int, bytes], ...], int]:
    try:
        (count,) = _U32.unpack_from(data, at)
    except struct.error:
        raise Corrupt("link list: too short") from None
    at += 4
    pairs: list[tuple[int, bytes]] = []
    for _ in range(count):
        link, at = _link_at(data, at)
        if pairs and pairs[-1] >= link:
            raise Corrupt("link list: not sorted")
        pairs.append(link)
    return tuple(pairs), at


def _link_at(data: bytes, at: int) -> tuple[tuple[int, bytes], int]:
    try:
        parent, length = _LINK.unpack_from(data, at)
    except struct.error:
        raise Corrupt("link list: too short") from None
    at += _LINK.size
    end = at + length
    if not 0 < length <= NAME_MAX or end > len(data):
        raise Corrupt("link list: a name out of bounds")
    return (parent, data[at:end]), end


class Dirent(NamedTuple):
    """One directory entry. ``cookie`` = key << 8 | discriminator, its key in the radix tree.

    ``kind`` is the file type, ``mode >> 12`` (the DT_* value of readdir(3)).
    """

    cookie: int
    ino: int
    kind: int
    name: bytes


_DIRENT = struct.Struct("<QB")


def encode_dirent(ino: int, kind: int, name: bytes) -> bytes:
    """The value stored under an entry's cookie: u64 inode, u8 type, name."""
    return _DIRENT.pack(ino, kind) + name


def decode_dirent(cookie: int, value: bytes) -> Dirent:
    """The entry under a cookie. Raises :class:`Corrupt`."""
    name = value[_DIRENT.size :]
    if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Corrupt("directory entry: impossible name")
    return _dirent(cookie, value, name)


def dirent_of(name: bytes, cookie: int, value: bytes) -> Dirent | None:
    """The entry, if it is that of ``name``, a possible one; None: another's. Raises :class:`Corrupt`."""
    return _dirent(cookie, value, name) if value[_DIRENT.size :] == name else None


def _dirent(cookie: int, value: bytes, name: bytes) -> Dirent:
    ino, kind = _DIRENT.unpack_from(value)
    if ino == 0 or kind > 15:
        raise Corrupt("directory entry: impossible inode or type")
    return Dirent(cookie, ino, kind, name)


_EXTENT = struct.Struct("<I32s")


def encode_file_block(mask: int, block_id: bytes) -> bytes:
    """The value stored under a block number in a file map: u32 allocated pages, block id."""
    return _EXTENT.pack(mask, block_id)


def decode_file_block(value: bytes) -> tuple[int, bytes]:
    """(mask, block id). Raises :class:`Corrupt`."""
    if len(value) != _EXTENT.size:
        raise Corrupt("file map entry: wrong length")
    mask, block_id = _EXTENT.unpack(value)
    if not mask:
        raise Corrupt("file map entry: no page allocated")
    return mask, block_id
