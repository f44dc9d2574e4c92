"""Inodes at rest: many states have the same objects, so nobody may ever have changed one."""

from __future__ import annotations

from cowfs.blocks.memory import MemoryBlocks
from cowfs.formats.inode import EMPTY, decode_inode
from cowfs.formats.node import Leaf
from cowfs.geometry import Geometry
from cowfs.view.directory import StoredDirectory
from cowfs.view.file import StoredFile
from cowfs.view.inode import Inode
from cowfs.view.state import record_of, thaw


def made_at_rest(blocks: MemoryBlocks) -> list[tuple[Leaf, int, Inode]]:
    """(leaf, index, inode) of everything that is kept with leaves in the cache of nodes."""
    leaves = [node for node, _ in blocks.nodes._items.values() if isinstance(node, Leaf)]
    return [(leaf, index, inode) for leaf in leaves for index, inode in leaf.made.items()]


def check_rested(blocks: MemoryBlocks, geometry: Geometry) -> int:
    """Each inode at rest is as its record says; returns how many there are."""
    made = made_at_rest(blocks)
    for leaf, index, inode in made:
        fresh = thaw(blocks, geometry, leaf.keys[index], decode_inode(leaf.value(index)))
        assert _fields(inode) == _fields(fresh), "an inode at rest was changed"
    return len(made)


def _fields(inode: Inode) -> tuple[object, ...]:
    return inode.ino, inode.owner, record_of(inode, EMPTY), _held(inode.data)


def _held(data: object) -> object:
    if isinstance(data, StoredFile):
        return data.content, data.size, data.block_log2
    if isinstance(data, StoredDirectory):
        return data.pointer, data.key_bits
    assert data is None or isinstance(data, bytes)
    return data
