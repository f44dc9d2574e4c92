"""The superblock: what a store is. ``bytes <-> frozen dataclass``, no I/O (docs/format.md).

Invariants: decoding raises :class:`Corrupt` on any malformed byte string, never anything else; a store that asks
for a newer reader is refused with a message that says so, whatever else its superblock holds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cowfs.errors import Corrupt
from cowfs.formats.checksum import xxh3
from cowfs.formats.node import VALUE_MAX
from cowfs.geometry import Geometry

FORMAT_VERSION = 1
"""The version that this code writes, and the newest that it reads. The oldest is 1: version 0 was never released."""

INLINE_MAX = 4096
"""The highest ``inline_limit``: bytes."""

_MAGIC = b"cowfsupr"
_HEAD = struct.Struct("<8sII")  # magic, version, reader version
_BODY = struct.Struct("<16sqIIBB6x")  # store id, created, inline limit, leaf limit, key bits, block size, zeros
_SUM = struct.Struct("<Q")
SUPERBLOCK_BYTES = _HEAD.size + _BODY.size + _SUM.size


@dataclass(frozen=True, slots=True)
class Superblock:
    """``version``: what wrote the store; ``reader_version``: the oldest reader that understands it.

    ``store_id``: 16 bytes. ``created_at``: ns since the epoch.
    """

    store_id: bytes
    geometry: Geometry
    created_at: int
    version: int = FORMAT_VERSION
    reader_version: int = FORMAT_VERSION


def encode_superblock(block: Superblock) -> bytes:
    """The whole file. Raises ValueError for a geometry that no store can have."""
    geometry = block.geometry
    if len(block.store_id) != 16 or not _possible(geometry):
        raise ValueError("impossible store id or geometry")
    head = _HEAD.pack(_MAGIC, block.version, block.reader_version)
    body = _BODY.pack(
        block.store_id, block.created_at, geometry.inline_limit, geometry.leaf_limit, geometry.key_bits,
        geometry.block_log2,
    )  # fmt: skip
    return head + body + _SUM.pack(xxh3(head + body))


def decode_superblock(data: bytes) -> Superblock:
    """The inverse of :func:`encode_superblock`. Raises :class:`Corrupt`."""
    if len(data) < _HEAD.size or data[:8] != _MAGIC:
        raise Corrupt("superblock: not a cowfs store")
    _, version, reader_version = _HEAD.unpack_from(data)
    if reader_version > FORMAT_VERSION:
        raise Corrupt(
            f"this store needs format version {reader_version}, this cowfs knows up to {FORMAT_VERSION}",
            hint="it was made by a newer cowfs; upgrade",
        )
    if version == 0:
        raise Corrupt(
            "this store was made before the formats were frozen (format version 0)",
            hint="copy its content into a new store with the cowfs that made it",
        )
    # A newer version that older readers understand may have appended fields before the checksum.
    if len(data) < SUPERBLOCK_BYTES or (version <= FORMAT_VERSION and len(data) != SUPERBLOCK_BYTES):
        raise Corrupt("superblock: wrong length")
    if _SUM.unpack(data[-8:])[0] != xxh3(data[:-8]):
        raise Corrupt("superblock: wrong checksum")
    store_id, created_at, inline_limit, leaf_limit, key_bits, block_log2 = _BODY.unpack_from(data, _HEAD.size)
    geometry = Geometry(inline_limit, leaf_limit, key_bits, block_log2)
    if not 1 <= reader_version <= version or not _possible(geometry) or any(data[_HEAD.size + 34 : _HEAD.size + 40]):
        raise Corrupt("superblock: impossible version, geometry or reserved bytes")
    return Superblock(store_id, geometry, created_at, version, reader_version)


def _possible(geometry: Geometry) -> bool:
    return (
        0 <= geometry.inline_limit <= INLINE_MAX
        and 1 <= geometry.leaf_limit <= VALUE_MAX
        and 1 <= geometry.key_bits <= 54
        and 12 <= geometry.block_log2 <= 17
    )
