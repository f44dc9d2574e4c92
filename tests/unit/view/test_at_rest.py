"""What a state makes of inodes at rest is there for all states that read the same leaf, and none can change it."""

from __future__ import annotations

import stat
import tracemalloc
from pathlib import Path
from typing import Any, cast

import pytest

from cowfs.blocks.cache import LruCache
from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt
from cowfs.formats.inode import BLOCK, EMPTY, Content, encode_inode
from cowfs.formats.node import Leaf
from cowfs.geometry import Geometry
from cowfs.layers.journal import file_path
from cowfs.layers.layer import Layer
from cowfs.settle.delta import settle_layer
from cowfs.tree import radix, root
from cowfs.tree.content import finish_record
from cowfs.tree.nodes import load
from cowfs.view import state as view_state
from cowfs.view.inode import Caller
from cowfs.view.state import HEAVY_BYTES, INODE_BYTES, State, new_inode, record_of
from tests.support.rested import made_at_rest
from tests.support.single import NAME, Single

GEOMETRY = Geometry()
FILES = range(2, 2002)
HEAVY_FILES = 200
XATTR_BYTES = 60_000


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks()


def settled(blocks: MemoryBlocks, damaged: int = 0, heavy: str = "") -> Layer:
    """A settled layer with many empty files; the record of one may be damaged, some may have large xattrs, or many
    links."""
    state = State(blocks, GEOMETRY, None)
    records = []
    for ino in FILES:
        inode, content = new_inode(state, ino, stat.S_IFREG | 0o600, 0, 0, 0, 5), EMPTY
        if heavy == "xattrs" and ino < 2 + HEAVY_FILES:
            inode.xattrs = {b"user.a": b"%d" % ino + bytes(XATTR_BYTES)}
        elif heavy == "target" and ino < 2 + HEAVY_FILES:
            inode.mode = stat.S_IFLNK | 0o777
            content = Content(BLOCK, 0, blocks.put(b"%d" % ino + bytes(XATTR_BYTES)))
        elif heavy == "links" and ino < 2 + HEAVY_FILES:
            inode.links = [(ino, b"name-%04d" % number) for number in range(200)]
            inode.nlink = len(inode.links)
        records.append((ino, encode_inode(finish_record(blocks, record_of(inode, content)))))
    records = [(ino, record[:-1] if ino == damaged else record) for ino, record in records]
    root_id = root.write_root(blocks, radix.build(blocks, records, GEOMETRY, inline=False))
    layer = Layer("layer", "ws", None, {}, (), FILES.stop, len(FILES))
    layer.settle(root_id, root.read_root(blocks, root_id))
    return layer


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """The bound for heavy inodes, a small one."""
    monkeypatch.setattr(view_state, "HEAVY_LIMIT", 300_000)
    return 300_000


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


@pytest.mark.parametrize("heavy", ["xattrs", "links"])
def test_what_is_large_counts_as_such(heavy: str) -> None:
    """What lies in blocks of its own, too: programs could have the cache take all memory by setxattr(2) or link(2)."""
    blocks = MemoryBlocks()
    layer = settled(blocks, heavy=heavy)
    cache = blocks.nodes = LruCache(64 << 20)
    tracemalloc.start()
    try:
        state = State(blocks, GEOMETRY, layer)
        for ino in range(2, 2 + HEAVY_FILES):
            state.inode(ino)
        state.known.clear()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held > 4_000_000
    assert 0.6 * held < cache.statistics().size_bytes < 1.7 * held


def weight(state: State) -> int:
    """What the heavy ones that a state knows weigh."""
    weights = [view_state._weight(inode) for inode in state.known.values()]
    return sum(each for each in weights if each > HEAVY_BYTES)


@pytest.mark.parametrize("heavy", ["xattrs", "links", "target"])
def test_what_is_known_and_large_is_let_go_of(blocks: MemoryBlocks, small_limit: int, heavy: str) -> None:
    """And nothing else is for its sake."""
    state = State(blocks, GEOMETRY, settled(blocks, heavy=heavy))
    light = [state.inode(ino) for ino in FILES[-100:]]
    for _ in range(4):
        for ino in range(2, 2 + HEAVY_FILES):
            state.inode(ino)
            assert weight(state) == state.heavy_bytes == sum(state.heavy.values()) <= small_limit
            assert state.heavy.keys() <= state.known.keys()
    assert all(state.known[inode.ino] is inode for inode in light)


def test_two_that_exceed_the_bound_alone_are_had_in_turn(blocks: MemoryBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost each other, and nobody else."""
    monkeypatch.setattr(view_state, "HEAVY_LIMIT", XATTR_BYTES // 2)
    state = State(blocks, GEOMETRY, settled(blocks, heavy="xattrs"))
    others = [state.inode(ino).ino for ino in FILES[-1000:]]
    for turn in range(20):
        mine = state.inode(2 + turn % 2)
        assert state.known.keys() == {mine.ino, *others}
        assert state.inode(mine.ino) is mine


@pytest.mark.parametrize("heavy", ["xattr", "links", "target"])
def test_what_was_made_large_is_let_go_of_when_it_is_frozen(tmp_path: Path, small_limit: int, heavy: str) -> None:
    one = Single(tmp_path / "journals")
    view, who = one.view, Caller()
    light = view.mknod(1, b"light", stat.S_IFREG | 0o644, 0, who)
    while weight(view.state) <= 2 * small_limit:
        name = b"f%d" % view.state.next_ino
        if heavy == "target":
            view.symlink(1, name, b"t" * 4000, who)
            continue
        inode = view.mknod(1, name, stat.S_IFREG | 0o644, 0, who)
        if heavy == "xattr":
            view.setxattr(inode.ino, b"user.a", bytes(XATTR_BYTES), 0, who)
        else:
            for number in range(200):
                view.link(inode.ino, 1, b"%s-%d" % (name, number), who)
    one.checkpoint()
    assert weight(view.state) == view.state.heavy_bytes <= small_limit
    assert light.ino in view.state.known
    one.check()


def test_a_large_one_that_is_changed_counts_where_it_is(blocks: MemoryBlocks) -> None:
    state = State(blocks, GEOMETRY, settled(blocks, heavy="xattrs"))
    mine = state.own(state.inode(2))
    assert (list(state.heavy), list(state.live_heavy), state.heavy_bytes) == ([], [2], 0)
    for ino in range(3, 2 + HEAVY_FILES):
        state.inode(ino)
    assert (state.inode(2) is mine, 2 in state.heavy) == (True, False)
    state.freeze("layer-2", "ws", ())
    assert 2 in state.heavy
    assert not state.live_heavy


def test_what_outgrows_the_cache_goes_alone() -> None:
    cache: LruCache[object] = LruCache(1000)
    values = {key: object() for key in (b"a", b"b", b"c")}
    for key, value in values.items():
        cache.put(key, value, 100)
    cache.grow(b"a", object(), 950)
    assert cache.statistics().size_bytes == 300
    cache.grow(b"a", values[b"a"], 950)
    assert [cache.get(key) for key in values] == [None, values[b"b"], values[b"c"]]
    assert cache.statistics().size_bytes == 200


def test_a_record_that_cannot_be_read_costs_nothing(blocks: MemoryBlocks) -> None:
    """However often it is tried."""
    layer = settled(blocks, damaged=FILES[0])
    state, sizes = State(blocks, GEOMETRY, layer), set()
    for _ in range(100):
        with pytest.raises(Corrupt):
            state.inode(FILES[0])
        sizes.add(blocks.nodes.statistics().size_bytes)
    assert len(sizes) == 1


def test_a_leaf_pays_for_what_is_made_of_it_alone(blocks: MemoryBlocks) -> None:
    """Not for what a state makes in a leaf that it has had since before the cache lost it."""
    layer = settled(blocks)
    states = [State(blocks, GEOMETRY, layer) for _ in range(20)]
    for state in states:
        blocks.nodes.clear()
        state.inode(FILES[0])
    before = blocks.nodes.statistics().size_bytes
    for state in states[:-1]:
        for ino in FILES[1:50]:
            state.inode(ino)
    assert blocks.nodes.statistics().size_bytes == before


class Written:
    """What a job has of a store: it reads by it what it wrote, too, and lets go of it at its end."""

    def __init__(self, blocks: MemoryBlocks) -> None:
        self.get, self.has, self.put, self.put_many = blocks.get, blocks.has, blocks.put, blocks.put_many
        self.nodes = blocks.nodes


def test_what_is_at_rest_does_not_hold_a_job_s_writer(tmp_path: Path) -> None:
    one = Single(tmp_path / "journals")
    one.files.mkdir("/d")
    one.files.write("/d/f", b"x" * 100_000)
    one.checkpoint()
    one.settle()
    one.files.write("/d/f", b"y", 5)
    one.files.write("/d/g", b"z")
    one.checkpoint()
    one.blocks.nodes.clear()
    spans = [(str(file_path(one.env.journals, NAME, number)), a, b) for number, a, b in one.layers[-1].spans]
    writer = cast(Any, Written(one.blocks))
    done = settle_layer(one.blocks, writer, one.geometry, one.layers[-2].root or b"", spans)
    made = [inode.data for _, _, inode in made_at_rest(one.blocks)]
    assert made
    assert all(cast(Any, data).blocks is one.blocks for data in made)
    one.settle()
    assert one.layers[-1].root == done.root


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
