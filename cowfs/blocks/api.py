"""What trees and settlers need of a block store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cowfs.blocks.cache import LruCache
from cowfs.formats.node import Branch, Leaf
from cowfs.formats.segment import RAW_MAX

__all__ = ["RAW_MAX", "BlockSink", "BlockSource", "Location"]


class Location(NamedTuple):
    """Where a block's record lies: segment id, offset of the record header, lengths in bytes, codec."""

    segment: int
    offset: int
    raw_len: int
    stored_len: int
    codec: int


class BlockSource(Protocol):
    """Blocks can be read. ``nodes`` caches decoded tree nodes by block id."""

    nodes: LruCache[Leaf | Branch]

    def get(self, id_: bytes) -> bytes:
        """The raw bytes. Raises Corrupt: damaged, or unknown (only blocks that exist are referred to)."""
        ...


class BlockSink(Protocol):
    """Blocks can be stored; an id is returned whether the block is new or not."""

    def put(self, raw: bytes) -> bytes:
        """Store one block of at most :data:`RAW_MAX` bytes."""
        ...

    def put_many(self, raws: Sequence[bytes]) -> list[bytes]:
        """Store several; the ids come in the same order."""
        ...


class BlockStore(BlockSource, BlockSink, Protocol):
    """Both: what was stored can be read."""
