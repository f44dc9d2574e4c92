"""Segment files: header, block records, footer; ``bytes <-> frozen values``, no I/O (docs/format.md).

Invariants:
- a record's header is checksummed by itself, its stored bytes by XXH3, its raw bytes by the id;
- a record never spans two segments, and ends below :data:`OFFSET_MAX`;
- decoding raises :class:`Corrupt` on any malformed byte string, never anything else.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cowfs.errors import Corrupt
from cowfs.formats.checksum import xxh3

RAW, ZSTD = 0, 1
"""Codecs: how the stored bytes encode the raw ones."""

RAW_MAX = 128 * 1024
"""Raw bytes in a block at most; stored bytes never exceed the raw ones."""

OFFSET_MAX = 1 << 32
"""Bytes in a segment at most (sealing comes far earlier)."""

SEGMENT_MAGIC = b"cowfsseg"
RECORD_MAGIC = b"cwR0"
FOOTER_MAGIC = b"cwF0"
TRAILER_MAGIC = b"cowfsend"

_HEADER = struct.Struct("<8sQQ")  # magic, segment id, XXH3 of the 16 bytes before
_RECORD = struct.Struct("<4sBxxxIIQ32s")  # magic, codec, zeros, raw, stored, XXH3 of stored bytes, id
_SUM = struct.Struct("<Q")
_ENTRY = struct.Struct("<32sIIIB")  # id, offset, raw, stored, codec
_TRAILER = struct.Struct("<4sIQQ8s")  # zeros, entries, footer offset, XXH3 of all before, magic

HEADER_BYTES = _HEADER.size
RECORD_BYTES = _RECORD.size + _SUM.size
ENTRY_BYTES = _ENTRY.size
TRAILER_BYTES = _TRAILER.size


class RecordHeader(NamedTuple):
    """What precedes a block's stored bytes. Lengths in bytes; ``checksum`` is XXH3-64 of the stored bytes."""

    codec: int
    raw_len: int
    stored_len: int
    checksum: int
    id: bytes


class FooterEntry(NamedTuple):
    """A record in a sealed segment's footer. ``offset`` is its header's, from the start of the file."""

    id: bytes
    offset: int
    raw_len: int
    stored_len: int
    codec: int


def encode_header(segment_id: int) -> bytes:
    """The first bytes of a segment file."""
    head = _HEADER.pack(SEGMENT_MAGIC, segment_id, 0)[:-8]
    return head + _SUM.pack(xxh3(head))


def decode_header(data: bytes) -> int:
    """The segment id. Raises :class:`Corrupt`."""
    if len(data) != HEADER_BYTES:
        raise Corrupt("segment header: too short")
    magic, segment_id, checksum = _HEADER.unpack(data)
    if magic != SEGMENT_MAGIC or checksum != xxh3(data[:-8]):
        raise Corrupt("segment header: wrong magic or checksum")
    return int(segment_id)


def encode_record_header(header: RecordHeader) -> bytes:
    """The 64 bytes before the stored bytes."""
    codec, raw_len, stored_len, checksum, id_ = header
    head = _RECORD.pack(RECORD_MAGIC, codec, raw_len, stored_len, checksum, id_)
    return head + _SUM.pack(xxh3(head))


def decode_record_header(data: bytes) -> RecordHeader:
    """The inverse of :func:`encode_record_header`. Raises :class:`Corrupt`."""
    if len(data) != RECORD_BYTES:
        raise Corrupt("block record: too short")
    magic, codec, raw_len, stored_len, checksum, id_ = _RECORD.unpack_from(data)
    if magic != RECORD_MAGIC or _SUM.unpack_from(data, _RECORD.size)[0] != xxh3(data[: _RECORD.size]):
        raise Corrupt("block record: wrong magic or header checksum")
    check_lengths(codec, raw_len, stored_len)
    if data[5:8] != b"\0\0\0":
        raise Corrupt("block record: reserved bytes are not zero")
    return RecordHeader(codec, raw_len, stored_len, checksum, id_)


def check_lengths(codec: int, raw_len: int, stored_len: int) -> None:
    """Raise :class:`Corrupt` unless a record may have this codec and these lengths."""
    if raw_len > RAW_MAX or not (stored_len == raw_len if codec == RAW else codec == ZSTD and stored_len < raw_len):
        raise Corrupt("block record: unknown codec or impossible length")


def encode_footer(entries: list[FooterEntry], offset: int) -> bytes:
    """The footer of a sealed segment, to be written at ``offset``, the end of the last record."""
    body = b"".join([FOOTER_MAGIC, *[_ENTRY.pack(*entry) for entry in entries]])
    body += _TRAILER.pack(b"\0\0\0\0", len(entries), offset, 0, b"")[:16]
    return body + _SUM.pack(xxh3(body)) + TRAILER_MAGIC


def decode_trailer(data: bytes, file_size: int) -> tuple[int, int]:
    """(entries, footer offset) from the last :data:`TRAILER_BYTES` of a file. Raises :class:`Corrupt`."""
    if len(data) != TRAILER_BYTES:
        raise Corrupt("segment trailer: too short")
    zeros, count, offset, _, magic = _TRAILER.unpack(data)
    size = len(FOOTER_MAGIC) + count * ENTRY_BYTES + TRAILER_BYTES
    if magic != TRAILER_MAGIC or zeros != b"\0\0\0\0" or offset < HEADER_BYTES or offset + size != file_size:
        raise Corrupt("segment trailer: wrong magic or lengths")
    return count, offset


def decode_footer(data: bytes, offset: int) -> list[FooterEntry]:
    """The entries of a whole footer that was read from ``offset``. Raises :class:`Corrupt`.

    Records must follow each other without gaps, from the header to the footer.
    """
    count, claimed = decode_trailer(data[-TRAILER_BYTES:], offset + len(data))
    if claimed != offset or data[:4] != FOOTER_MAGIC or _SUM.unpack(data[-16:-8])[0] != xxh3(data[:-16]):
        raise Corrupt("segment footer: wrong magic, offset or checksum")
    entries = [FooterEntry(*fields) for fields in _ENTRY.iter_unpack(memoryview(data)[4 : 4 + count * ENTRY_BYTES])]
    at = HEADER_BYTES
    for entry in entries:
        check_lengths(entry.codec, entry.raw_len, entry.stored_len)
        if entry.offset != at:
            raise Corrupt("segment footer: records do not follow each other")
        at += RECORD_BYTES + entry.stored_len
    if at != offset:
        raise Corrupt("segment footer: records do not end where it begins")
    return entries
