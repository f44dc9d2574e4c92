"""Root blocks: one id for one complete filesystem state."""

from __future__ import annotations

from cowfs.blocks.api import BlockSink, BlockSource
from cowfs.errors import Corrupt
from cowfs.formats.node import Root, decode_root, encode_root


def write_root(writer: BlockSink, table: bytes) -> bytes:
    """Store the root block of a state whose inode table has this pointer; returns the root, a block id."""
    return writer.put(encode_root(Root(table)))


def read_root(blocks: BlockSource, root: bytes) -> bytes:
    """The pointer to a root's inode table. Raises Corrupt."""
    try:
        return decode_root(blocks.get(root)).table
    except Corrupt as error:
        raise Corrupt(f"root {root.hex()}: {error.message}") from None
