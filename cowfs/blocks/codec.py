"""Encoding and decoding the stored bytes of a block. Thread-safe: compressors belong to a thread."""

from __future__ import annotations

import threading

import zstandard

from cowfs.errors import Corrupt
from cowfs.formats.checksum import block_id, xxh3
from cowfs.formats.segment import RAW, RAW_MAX, ZSTD, RecordHeader

_LEVEL = 1
_WORTH = 16  # compression must save at least one part in so many
_SHORT = 96  # raw bytes below which it is not tried

_local = threading.local()


def encode(raw: bytes, id_: bytes) -> tuple[RecordHeader, bytes]:
    """(record header, stored bytes) of a block."""
    stored, codec = raw, RAW
    if len(raw) >= _SHORT:
        compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
        if compressor is None:
            compressor = _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        packed = compressor.compress(raw)
        if len(packed) <= len(raw) - len(raw) // _WORTH:
            stored, codec = packed, ZSTD
    return RecordHeader(codec, len(raw), len(stored), xxh3(stored), id_), stored


def decode(header: RecordHeader, stored: bytes) -> bytes:
    """The raw bytes. Raises Corrupt on a flipped bit, or stored bytes that are not what the header says.

    The id is not compared (:func:`verify` does): it costs more, and XXH3 finds damage as well.
    """
    if len(stored) != header.stored_len or xxh3(stored) != header.checksum:
        raise Corrupt("stored bytes do not match their checksum")
    if header.codec == RAW:
        return stored
    if header.codec != ZSTD or header.raw_len > RAW_MAX:
        raise Corrupt("unknown codec or impossible length")
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        # A frame that declares another size would make zstd allocate that much: refused before.
        if zstandard.frame_content_size(stored) != header.raw_len:
            raise Corrupt("compressed frame declares another length than its record")
        raw: bytes = decompressor.decompress(stored, max_output_size=RAW_MAX, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"stored bytes do not decompress ({error})") from None
    if len(raw) != header.raw_len:
        raise Corrupt("stored bytes decompress to another length")
    return raw


def verify(header: RecordHeader, raw: bytes) -> None:
    """Raise Corrupt unless the raw bytes have the record's id."""
    if block_id(raw) != header.id:
        raise Corrupt("raw bytes do not match the block's id")
