"""Files that carry bulky data between the owner and a settler: ``bytes <-> values``, then write and read.

======  ====  ==========================================================================================
offset  type  field
======  ====  ==========================================================================================
0       8     magic ``cowfsblk``
8       u8    kind: 1 batch, 2 ids, 3 contents, 4 import report
9       u64   payload bytes n
17      n     payload
17 + n  32    BLAKE3 of everything before
======  ====  ==========================================================================================

All numbers are little-endian. Such a file lives for one job only, in the store's ``tmp`` directory, so it has no
version: both sides are the same build. It is still read strictly; anything wrong raises :class:`Corrupt`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from cowfs.blocks.api import Location
from cowfs.errors import Corrupt
from cowfs.formats.inode import ID_BYTES, TREE, Content

PREFIX = "settle-"
"""Names of these files begin with it: what lies about when a store is opened belongs to a dead settler."""

BATCH, IDS, CONTENTS, REPORT, BLOBS = 1, 2, 3, 4, 5

_HEAD = struct.Struct("<8sBQ")
_MAGIC = b"cowfsblk"
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_RECORD = struct.Struct("<32sQQIIB")
_CONTENT = struct.Struct("<QBII")


class Batch(NamedTuple):
    """What a settler wrote, and the ids of blocks that it found in the index and relied on."""

    records: list[tuple[bytes, Location]]
    relied_on: list[bytes]


class Report(NamedTuple):
    """What an import left out, as (path, reason), and the files that it took while they were changing."""

    skipped: list[tuple[bytes, str]]
    changed: list[bytes]


def encode_batch(records: Iterable[tuple[bytes, Location]], relied_on: Iterable[bytes]) -> bytes:
    """u32 record count, records (id, segment u64, offset u64, raw u32, stored u32, codec u8), then ids."""
    packed = [
        _RECORD.pack(block_id, at.segment, at.offset, at.raw_len, at.stored_len, at.codec) for block_id, at in records
    ]
    return b"".join((_U32.pack(len(packed)), *packed, encode_ids(relied_on)))


def decode_batch(data: bytes) -> Batch:
    """The inverse of :func:`encode_batch`."""
    if len(data) < 4:
        raise Corrupt("batch: too short")
    (count,) = _U32.unpack_from(data)
    end = 4 + count * _RECORD.size
    if end > len(data):
        raise Corrupt("batch: fewer records than counted")
    records = [(row[0], Location(*row[1:])) for row in _RECORD.iter_unpack(data[4:end])]
    return Batch(records, decode_ids(data[end:]))


def encode_ids(ids: Iterable[bytes]) -> bytes:
    """Block ids, one after the other."""
    return b"".join(ids)


def decode_ids(data: bytes) -> list[bytes]:
    """The inverse of :func:`encode_ids`."""
    if len(data) % ID_BYTES:
        raise Corrupt("id list: not whole ids")
    return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]


def encode_blobs(blobs: Iterable[bytes]) -> bytes:
    """Byte strings, each with its length before it."""
    return b"".join(part for blob in blobs for part in (_U32.pack(len(blob)), blob))


def decode_blobs(data: bytes) -> list[bytes]:
    """The inverse of :func:`encode_blobs`."""
    blobs, at = [], 0
    while at < len(data):
        end = at + 4 + (_U32.unpack_from(data, at)[0] if at + 4 <= len(data) else len(data))
        if end > len(data):
            raise Corrupt("list of byte strings: too short")
        blobs.append(data[at + 4 : end])
        at = end
    return blobs


def encode_contents(contents: Iterable[tuple[int, Content]]) -> bytes:
    """Per inode: u64 number, u8 kind, u32 mask, u32 length, data."""
    parts: list[bytes] = []
    for ino, content in contents:
        parts += (_CONTENT.pack(ino, content.kind, content.mask, len(content.data)), content.data)
    return b"".join(parts)


def decode_contents(data: bytes) -> list[tuple[int, Content]]:
    """The inverse of :func:`encode_contents`."""
    contents: list[tuple[int, Content]] = []
    at = 0
    while at < len(data):
        if at + _CONTENT.size > len(data):
            raise Corrupt("content list: too short")
        ino, kind, mask, length = _CONTENT.unpack_from(data, at)
        at += _CONTENT.size
        if kind > TREE or at + length > len(data):
            raise Corrupt("content list: unknown kind, or too short")
        contents.append((ino, Content(kind, mask, data[at : at + length])))
        at += length
    return contents


def encode_report(report: Report) -> bytes:
    """u32 count of skipped, then per item u32 length and path, u32 length and reason; then changed paths alike."""
    parts = [_U32.pack(len(report.skipped))]
    for path, reason in report.skipped:
        text = reason.encode("utf-8", "replace")
        parts += (_U32.pack(len(path)), path, _U32.pack(len(text)), text)
    for path in report.changed:
        parts += (_U32.pack(len(path)), path)
    return b"".join(parts)


def decode_report(data: bytes) -> Report:
    """The inverse of :func:`encode_report`."""
    if len(data) < 4:
        raise Corrupt("import report: too short")
    (count,) = _U32.unpack_from(data)
    fields: list[bytes] = []
    at = 4
    while at < len(data):
        end = at + 4 + (_U32.unpack_from(data, at)[0] if at + 4 <= len(data) else len(data))
        if end > len(data):
            raise Corrupt("import report: too short")
        fields.append(data[at + 4 : end])
        at = end
    if len(fields) < 2 * count:
        raise Corrupt("import report: fewer paths than counted")
    pairs = zip(fields[0 : 2 * count : 2], fields[1 : 2 * count : 2], strict=True)
    return Report([(path, text.decode("utf-8", "replace")) for path, text in pairs], fields[2 * count :])


def seal(kind: int, payload: bytes) -> bytes:
    """The bytes of a file with this payload."""
    data = _HEAD.pack(_MAGIC, kind, len(payload)) + payload
    return data + blake3(data).digest()


def unseal(kind: int, data: bytes) -> bytes:
    """The payload of a file of this kind."""
    if len(data) < _HEAD.size + 32:
        raise Corrupt("settler file: too short")
    magic, found, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or found != kind or length != len(data) - _HEAD.size - 32:
        raise Corrupt("settler file: wrong magic, kind or length")
    if blake3(data[:-32]).digest() != data[-32:]:
        raise Corrupt("settler file: wrong checksum")
    return data[_HEAD.size : -32]


def write_file(path: Path, kind: int, payload: bytes) -> None:
    """Write a whole file that does not exist yet. It need not survive a power loss, so it is not synced."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(seal(kind, payload))
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def take_file(path: Path, kind: int) -> bytes:
    """The payload of a file, which is removed whether it is good or not."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"settler file {path.name} is missing") from None
    path.unlink()
    return unseal(kind, data)


def sweep(directory: Path) -> int:
    """Remove what dead settlers left in the store's ``tmp`` directory; how many files. No settler may be running."""
    removed = 0
    for path in directory.glob(PREFIX + "*"):
        path.unlink(missing_ok=True)
        removed += 1
    return removed
