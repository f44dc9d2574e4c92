"""The two checksums of the store: BLAKE3 names a block, XXH3 finds a flipped bit fast."""

from blake3 import blake3
from xxhash import xxh3_64_intdigest

ID_BYTES = 32
"""Bytes in a block id (BLAKE3-256)."""


def block_id(raw: bytes) -> bytes:
    """The id of a block: BLAKE3-256 of its raw bytes, 32 bytes."""
    return blake3(raw).digest()


def xxh3(data: bytes | memoryview) -> int:
    """XXH3-64 of ``data`` as an unsigned 64-bit number. Not for hostile collisions: damage only."""
    return xxh3_64_intdigest(data)
