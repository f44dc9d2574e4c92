"""Control log file: its header and the framing of entries (docs/format-control.md). Pure, no I/O.

Decoding raises :class:`Corrupt` on any malformed byte string, never anything else.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import xxhash

from cowfs.errors import Corrupt, Invalid

VERSION = 1
PAYLOAD_MAX = 16 * 1024 * 1024
"""Bytes of operations in one entry at most."""

FILE_MAGIC = b"COWFSCTL"
ENTRY_MAGIC = b"\xc0CTE"
_FILE_HEADER = struct.Struct("<8sHHIQQQ")  # magic, version, zero, zero, salt, first sequence, base sequence
FILE_HEADER_BYTES = _FILE_HEADER.size + 8
_ENTRY_HEADER = struct.Struct("<4sIQQ")  # magic, payload bytes, sequence, durable
ENTRY_HEADER_BYTES = _ENTRY_HEADER.size + 8
_CHECKSUM = struct.Struct("<Q")


class FileHeader(NamedTuple):
    """``salt`` seeds every entry's checksum. Entries from ``first`` to ``base`` were synced before the file got
    its name; ``base`` = ``first`` - 1 when it began empty."""

    salt: int
    first: int
    base: int


class EntryHeader(NamedTuple):
    """``size``: payload bytes. ``durable``: entries up to this sequence were synced when this one was written."""

    size: int
    sequence: int
    durable: int


def encode_file_header(header: FileHeader) -> bytes:
    """The first bytes of a control log."""
    raw = _FILE_HEADER.pack(FILE_MAGIC, VERSION, 0, 0, *header)
    return raw + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(raw))


def decode_file_header(data: bytes) -> FileHeader:
    """The header at the start of ``data``. Raises :class:`Corrupt`."""
    if len(data) < FILE_HEADER_BYTES or data[:8] != FILE_MAGIC:
        raise Corrupt("control log: not a control log")
    _, version, zero, zero2, salt, first, base = _FILE_HEADER.unpack_from(data)
    if version > VERSION:
        raise Corrupt(f"control log: version {version} was made by a newer cowfs", hint="upgrade cowfs")
    (checksum,) = _CHECKSUM.unpack_from(data, _FILE_HEADER.size)
    if (
        checksum != xxhash.xxh3_64_intdigest(data[: _FILE_HEADER.size])
        or zero
        or zero2
        or not (version and 0 < first <= base + 1)
    ):
        raise Corrupt("control log: damaged file header")
    return FileHeader(salt, first, base)


def encode_entry(salt: int, sequence: int, durable: int, payload: bytes) -> bytes:
    """One entry around ``payload``. Raises :class:`Invalid` when it is larger than :data:`PAYLOAD_MAX`."""
    if len(payload) > PAYLOAD_MAX:
        raise Invalid(f"control log: an entry of {len(payload)} bytes is too large", hint="do it in smaller groups")
    head = _ENTRY_HEADER.pack(ENTRY_MAGIC, len(payload), sequence, durable)
    digest = xxhash.xxh3_64(head, seed=salt)
    digest.update(payload)
    return b"".join((head, _CHECKSUM.pack(digest.intdigest()), payload))


def decode_entry(salt: int, data: bytes, at: int) -> tuple[EntryHeader, bytes]:
    """(header, payload) of the entry at offset ``at``. Raises :class:`Corrupt` when it is damaged or cut short."""
    start = at + ENTRY_HEADER_BYTES
    if start > len(data):
        raise Corrupt("control log: entry cut short")
    magic, size, sequence, durable = _ENTRY_HEADER.unpack_from(data, at)
    if magic != ENTRY_MAGIC or size > PAYLOAD_MAX or durable >= sequence or start + size > len(data):
        raise Corrupt("control log: damaged entry header")
    payload = data[start : start + size]
    digest = xxhash.xxh3_64(data[at : at + _ENTRY_HEADER.size], seed=salt)
    digest.update(payload)
    if digest.intdigest() != _CHECKSUM.unpack_from(data, at + _ENTRY_HEADER.size)[0]:
        raise Corrupt("control log: entry checksum does not match")
    return EntryHeader(size, sequence, durable), payload
