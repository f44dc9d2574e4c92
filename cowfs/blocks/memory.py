"""A block store in memory, for tests and for building trees that are thrown away."""

from __future__ import annotations

from collections.abc import Sequence

from cowfs.blocks.api import RAW_MAX
from cowfs.blocks.cache import LruCache
from cowfs.errors import Corrupt
from cowfs.formats.checksum import block_id
from cowfs.formats.node import Branch, Leaf


class MemoryBlocks:
    """Source and sink at once. ``blocks`` is all it holds; ``reads`` lists the ids asked for, in order."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.reads: list[bytes] = []
        self.nodes: LruCache[Leaf | Branch] = LruCache(32 << 20)

    def get(self, id_: bytes) -> bytes:
        """The raw bytes. Raises Corrupt."""
        self.reads.append(id_)
        try:
            return self.blocks[id_]
        except KeyError:
            raise Corrupt(f"no block {id_.hex()}", hint="run cowfs fsck") from None

    def has(self, id_: bytes) -> bool:
        """Whether the block is there."""
        return id_ in self.blocks

    def put(self, raw: bytes) -> bytes:
        """Store one block."""
        if len(raw) > RAW_MAX:
            raise ValueError(f"a block has at most {RAW_MAX} bytes, not {len(raw)}")
        id_ = block_id(raw)
        self.blocks.setdefault(id_, raw)
        return id_

    def put_many(self, raws: Sequence[bytes]) -> list[bytes]:
        """Store several."""
        return [self.put(raw) for raw in raws]
