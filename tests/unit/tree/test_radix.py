"""The radix tree: shape, cost, and that damage is refused. Its laws are in property/test_tree.py."""

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt
from cowfs.formats.node import (
    BRANCH,
    LEAF,
    VALUE_MAX,
    Branch,
    Child,
    Ref,
    decode_node,
    decode_pointer,
    encode_branch,
    encode_leaf,
    encode_ref,
)
from cowfs.geometry import Geometry
from cowfs.tree import radix
from cowfs.tree.root import read_root, write_root

SMALL = Geometry(leaf_limit=100, inline_limit=64)
TOP = (1 << 64) - 1


def tree(blocks: MemoryBlocks, entries: dict[int, bytes], geometry: Geometry = SMALL, inline: bool = False) -> bytes:
    """A tree of these entries."""
    return radix.update(blocks, blocks, b"", entries, geometry, inline)


def test_empty_tree() -> None:
    blocks = MemoryBlocks()
    assert radix.build(blocks, [], SMALL, True) == b""
    assert tree(blocks, {}) == b""
    assert radix.lookup(blocks, b"", 1) is None
    assert list(radix.scan(blocks, b"")) == []
    assert radix.count(b"") == 0
    assert radix.update(blocks, blocks, b"", {5: None}, SMALL, True) == b""
    assert not blocks.blocks


def test_small_tree_is_inline_up_to_the_limit_exactly() -> None:
    blocks = MemoryBlocks()
    fits = tree(blocks, {1: bytes(64 - 4 - 10)}, inline=True)
    assert len(fits) == 64
    assert not blocks.blocks
    above = tree(blocks, {1: bytes(64 - 4 - 9)}, inline=True)
    assert len(above) == 49
    assert len(blocks.blocks) == 1
    assert radix.update(blocks, blocks, above, {1: bytes(50)}, SMALL, True) == fits
    assert radix.update(blocks, blocks, fits, {}, SMALL, False) == tree(MemoryBlocks(), {1: bytes(50)})
    moved = tree(blocks, {1: bytes(50)})
    assert radix.update(blocks, blocks, moved, {}, SMALL, True) == fits


def test_leaf_up_to_the_limit_exactly() -> None:
    blocks = MemoryBlocks()
    assert isinstance(decode_node(blocks.get(tree(blocks, {1: bytes(40), 2: bytes(40)})[-32:])).size, int)
    kinds = [decode_pointer(tree(blocks, {1: bytes(40), 2: bytes(n)})) for n in (40, 41)]
    assert [ref.kind for ref in kinds if isinstance(ref, Ref)] == [LEAF, BRANCH]


def test_single_entry_is_a_leaf_however_long() -> None:
    blocks = MemoryBlocks()
    top = decode_pointer(tree(blocks, {7: bytes(VALUE_MAX)}))
    assert isinstance(top, Ref)
    assert top == (LEAF, 1, VALUE_MAX + 10, top.id)


def test_shape_is_path_compressed_and_halved() -> None:
    blocks = MemoryBlocks()
    base = 0xABC << 40
    entries = {base + digit: bytes(20) for digit in (0, 1, 2, 3, 40)}
    top = decode_pointer(tree(blocks, entries))
    assert isinstance(top, Ref)
    node = decode_node(blocks.get(top.id))
    assert isinstance(node, Branch)
    assert (node.base, node.shift) == (base, 0)
    assert [(child.digit, child.span, child.ref.entries) for child in node.children] == [
        (0, 1, 2),
        (2, 1, 2),
        (32, 5, 1),
    ]


def test_one_change_touches_one_path() -> None:
    blocks = MemoryBlocks()
    geometry = Geometry()
    pointer = radix.build(blocks, ((key, bytes(100)) for key in range(50_000)), geometry, False)
    stored = len(blocks.blocks)
    blocks.nodes.clear()
    blocks.reads.clear()
    changed = radix.update(blocks, blocks, pointer, {25_000: b"x"}, geometry, False)
    assert len(blocks.reads) <= 4
    assert len(blocks.blocks) - stored <= 4
    blocks.nodes.clear()
    blocks.reads.clear()
    assert list(radix.diff(blocks, pointer, changed)) == [(25_000, bytes(100), b"x")]
    assert len(blocks.reads) <= 8


def test_changes_without_effect_store_and_return_nothing_new() -> None:
    blocks = MemoryBlocks()
    entries = {key * 77: bytes([key]) * 9 for key in range(200)}
    pointer = tree(blocks, entries)
    stored = len(blocks.blocks)
    same = {key: value for key, value in entries.items() if key % 3 == 0} | {1: None, TOP: None}
    assert radix.update(blocks, blocks, pointer, same, SMALL, False) == pointer
    assert len(blocks.blocks) == stored


def test_scan_reads_only_its_range() -> None:
    blocks = MemoryBlocks()
    entries = {key: bytes(30) for key in range(4000)}
    pointer = tree(blocks, entries)
    assert [key for key, _ in radix.scan(blocks, pointer, 1000, 1010)] == list(range(1000, 1010))
    blocks.nodes.clear()
    blocks.reads.clear()
    assert [key for key, _ in radix.scan(blocks, pointer, 1000, 1010)] == list(range(1000, 1010))
    assert len(blocks.reads) < 12
    assert list(radix.scan(blocks, pointer, 5000)) == []
    assert list(radix.scan(blocks, pointer, 20, 20)) == []


def test_diff_of_equal_trees_reads_nothing_and_across_heights_little() -> None:
    blocks = MemoryBlocks()
    low = {key: bytes(30) for key in range(3000)}
    a = tree(blocks, low)
    b = tree(blocks, low | {TOP: b"far"})
    blocks.nodes.clear()
    blocks.reads.clear()
    assert list(radix.diff(blocks, a, a)) == []
    assert blocks.reads == []
    assert list(radix.diff(blocks, a, b)) == [(TOP, None, b"far")]
    assert len(blocks.reads) <= 3


@pytest.mark.parametrize("changes", [{-1: b""}, {1 << 64: b""}, {1: bytes(VALUE_MAX + 1)}])
def test_impossible_changes(changes: dict[int, bytes | None]) -> None:
    with pytest.raises(ValueError, match="tree"):
        radix.update(MemoryBlocks(), MemoryBlocks(), b"", changes, SMALL, False)


@pytest.mark.parametrize("entries", [[(2, b""), (1, b"")], [(1, b""), (1, b"")], [(1 << 64, b"")]])
def test_build_wants_ascending_keys(entries: list[tuple[int, bytes]]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        radix.build(MemoryBlocks(), entries, SMALL, False)


def test_walk_visits_each_block_once_and_skips_what_is_refused() -> None:
    blocks = MemoryBlocks()
    entries = {key * 1000: bytes(30) for key in range(500)}
    pointer = tree(blocks, entries)
    seen: set[bytes] = set()

    def visit(id_: bytes) -> bool:
        fresh = id_ not in seen
        seen.add(id_)
        return fresh

    walked = list(radix.walk(blocks, pointer, visit))
    assert dict(entry for _, found in walked for entry in found) == entries
    assert seen == set(blocks.blocks) == {id_ for id_, _ in walked}
    assert list(radix.walk(blocks, pointer, visit)) == []
    assert list(radix.walk(blocks, encode_leaf([3], [b"x"]), visit)) == [(None, [(3, b"x")])]


# Damage


def test_missing_and_damaged_blocks() -> None:
    blocks = MemoryBlocks()
    pointer = tree(blocks, {key: bytes(30) for key in range(1000)})
    with pytest.raises(Corrupt):
        radix.lookup(MemoryBlocks(), pointer, 3)
    for id_ in blocks.blocks:
        blocks.blocks[id_] = b"\x01junk"
    for read in (
        lambda: radix.lookup(blocks, pointer, 3),
        lambda: list(radix.scan(blocks, pointer)),
        lambda: radix.update(blocks, blocks, pointer, {3: None}, SMALL, False),
        lambda: list(radix.diff(blocks, pointer, b"")),
    ):
        with pytest.raises(Corrupt):
            read()


def test_a_branch_that_contains_itself_is_refused() -> None:
    blocks = MemoryBlocks()
    loop = bytes(32)
    ref = Ref(BRANCH, 10, 1000, loop)
    leaf = Ref(LEAF, 1, 10, blocks.put(encode_leaf([1 << 12], [b""])))
    blocks.blocks[loop] = encode_branch(0, 12, [Child(0, 0, ref), Child(1, 0, leaf)])
    top = encode_ref(Ref(BRANCH, 11, 1010, loop))
    with pytest.raises(Corrupt):
        radix.lookup(blocks, top, 5)
    with pytest.raises(Corrupt):
        list(radix.scan(blocks, top))
    assert any("its parent" in problem for problem in radix.check(blocks, top, SMALL, False))


@pytest.mark.parametrize(
    "top",
    [Ref(LEAF, 2, 100, b""), Ref(LEAF, 3, 99, b""), Ref(BRANCH, 2, 50, b"")],
    ids=["entries", "size", "kind"],
)
def test_a_pointer_that_misdescribes_its_node_is_refused(top: Ref) -> None:
    blocks = MemoryBlocks()
    id_ = blocks.put(encode_leaf([1, 2], [b"", bytes(30)]))
    pointer = encode_ref(top._replace(id=id_))
    with pytest.raises(Corrupt):
        list(radix.scan(blocks, pointer))
    assert list(radix.check(blocks, pointer, SMALL, False))


# check: each departure from the canonical shape


def leaf_ref(blocks: MemoryBlocks, *keys: int, size: int = 30) -> Ref:
    """A written leaf of these keys."""
    values = [bytes(size)] * len(keys)
    return Ref(LEAF, len(keys), (size + 10) * len(keys), blocks.put(encode_leaf(list(keys), values)))


def branch_ref(blocks: MemoryBlocks, base: int, shift: int, *children: tuple[int, int, Ref]) -> Ref:
    """A written branch."""
    kids = [Child(*child) for child in children]
    id_ = blocks.put(encode_branch(base, shift, kids))
    return Ref(BRANCH, sum(c.ref.entries for c in kids), sum(c.ref.size for c in kids), id_)


def problems(blocks: MemoryBlocks, ref: Ref, inline: bool = False) -> str:
    """All that check says."""
    return "\n".join(radix.check(blocks, encode_ref(ref), SMALL, inline))


def test_check_accepts_a_canonical_branch() -> None:
    blocks = MemoryBlocks()
    good = branch_ref(blocks, 0, 0, (0, 5, leaf_ref(blocks, 0, 1)), (32, 5, leaf_ref(blocks, 32)))
    assert problems(blocks, good) == ""


def test_check_names_every_departure() -> None:
    blocks = MemoryBlocks()
    one, two = leaf_ref(blocks, 0), leaf_ref(blocks, 32)
    assert "branch that would fit a leaf" in problems(blocks, branch_ref(blocks, 0, 0, (0, 5, one), (32, 5, two)))
    over = leaf_ref(blocks, 0, 1, 2)
    assert "over the leaf limit" in problems(blocks, over)
    assert "leaf over the limit" in problems(blocks, branch_ref(blocks, 0, 0, (0, 5, over), (32, 5, two)))
    halves = branch_ref(
        blocks, 0, 0, (0, 4, leaf_ref(blocks, 0)), (16, 4, leaf_ref(blocks, 16)), (32, 5, leaf_ref(blocks, 32, 33))
    )
    assert "half of what would fit" in problems(blocks, halves)
    narrow = branch_ref(blocks, 0, 0, (0, 5, leaf_ref(blocks, 0, 1)), (32, 4, leaf_ref(blocks, 32)))
    assert "half of what would fit" in problems(blocks, narrow)
    outside = branch_ref(blocks, 0, 0, (0, 5, leaf_ref(blocks, 0, 33)), (32, 5, leaf_ref(blocks, 34)))
    assert "keys outside" in problems(blocks, outside)
    assert "could be inline" in problems(blocks, leaf_ref(blocks, 5), inline=True)
    inner = branch_ref(blocks, 0, 0, (0, 5, one), (32, 5, two))
    outer = branch_ref(blocks, 0, 6, (0, 0, inner), (32, 5, leaf_ref(blocks, 2048)))
    assert "is a branch that would fit a leaf" in problems(blocks, outer)


def test_check_of_inline_and_malformed_pointers() -> None:
    blocks = MemoryBlocks()
    assert list(radix.check(blocks, encode_leaf([1], [b"x"]), SMALL, True)) == []
    assert list(radix.check(blocks, encode_leaf([1], [b"x"]), SMALL, False))
    assert list(radix.check(blocks, encode_leaf([1], [bytes(60)]), SMALL, True))
    assert list(radix.check(blocks, b"\x09junk", SMALL, True))


# Roots


def test_root_round_trip_and_damage() -> None:
    blocks = MemoryBlocks()
    table = tree(blocks, {1: b"record"})
    root = write_root(blocks, table)
    assert read_root(blocks, root) == table
    blocks.blocks[root] = blocks.blocks[root][:-1]
    with pytest.raises(Corrupt, match=root.hex()):
        read_root(blocks, root)
