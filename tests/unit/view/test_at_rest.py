"""What a state makes of inodes at rest is there for all states that read the same leaf, and none can change it."""

from __future__ import annotations

import stat

import pytest

from cowfs.blocks.cache import LruCache
from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt
from cowfs.formats.inode import EMPTY, encode_inode
from cowfs.formats.node import Leaf
from cowfs.geometry import Geometry
from cowfs.layers.layer import Layer
from cowfs.tree import radix, root
from cowfs.tree.nodes import load
from cowfs.view.state import INODE_BYTES, State, new_inode, record_of

GEOMETRY = Geometry()
FILES = range(2, 2002)


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks()


def settled(blocks: MemoryBlocks, damaged: int = 0) -> Layer:
    """A settled layer with many empty files; the record of one may be damaged."""
    state = State(blocks, GEOMETRY, None)
    records = [
        (ino, encode_inode(record_of(new_inode(state, ino, stat.S_IFREG | 0o600, 0, 0, 0, 5), EMPTY))) for ino in FILES
    ]
    records = [(ino, record[:-1] if ino == damaged else record) for ino, record in records]
    root_id = root.write_root(blocks, radix.build(blocks, records, GEOMETRY, inline=False))
    layer = Layer("layer", "ws", None, {}, (), FILES.stop, len(FILES))
    layer.settle(root_id, root.read_root(blocks, root_id))
    return layer


def test_two_states_share_what_neither_has_changed(blocks: MemoryBlocks) -> None:
    layer = settled(blocks)
    one, other = State(blocks, GEOMETRY, layer), State(blocks, GEOMETRY, layer)
    assert all(one.inode(ino) is other.inode(ino) for ino in FILES)


def test_a_change_is_in_one_state_alone(blocks: MemoryBlocks) -> None:
    layer = settled(blocks)
    one, other = State(blocks, GEOMETRY, layer), State(blocks, GEOMETRY, layer)
    before = other.inode(2)
    mine = one.own(one.inode(2))
    mine.mode, mine.uid = stat.S_IFREG | 0o777, 7
    assert one.inode(2) is mine
    for state in (other, State(blocks, GEOMETRY, layer)):
        assert state.inode(2) is before
        assert (before.mode, before.uid, before.owner) == (stat.S_IFREG | 0o600, 0, None)


def test_what_is_kept_counts_against_the_cache(blocks: MemoryBlocks) -> None:
    layer = settled(blocks)
    state = State(blocks, GEOMETRY, layer)
    for ino in FILES:
        state.inode(ino)
    assert blocks.nodes.statistics().size_bytes >= len(FILES) * INODE_BYTES
    small = blocks.nodes = LruCache(200_000)
    state = State(blocks, GEOMETRY, layer)
    for ino in FILES:
        assert state.inode(ino).ino == ino
        assert small.statistics().size_bytes <= 200_000


def test_a_leaf_that_is_in_use_may_go_from_the_cache(blocks: MemoryBlocks) -> None:
    layer = settled(blocks)
    one, other = State(blocks, GEOMETRY, layer), State(blocks, GEOMETRY, layer)
    for ino in FILES:
        blocks.nodes.clear()
        assert one.inode(ino).ino == ino == other.inode(ino).ino


def test_a_damaged_record_is_told_to_everyone(blocks: MemoryBlocks) -> None:
    layer = settled(blocks, damaged=5)
    for _ in range(2):
        state = State(blocks, GEOMETRY, layer)
        assert state.inode(4).ino == 4
        for _ in range(2):
            with pytest.raises(Corrupt):
                state.inode(5)


def test_a_leaf_knows_its_block(blocks: MemoryBlocks) -> None:
    pointer = settled(blocks).table
    assert pointer is not None
    found = radix.Finger(blocks).find(pointer, 2)
    assert found is not None
    leaf, index = found
    assert isinstance(leaf, Leaf)
    assert leaf.keys[index] == 2
    assert load(blocks, leaf.id) is leaf
