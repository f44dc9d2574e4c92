"""Laws of the radix tree: its pointer is a function of its entries; it reads and differs like a dictionary."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt, NotFound
from cowfs.formats.node import Leaf, decode_node, decode_pointer, decode_root
from cowfs.geometry import Geometry
from cowfs.tree import radix

TOP = (1 << 64) - 1
KEYS = st.one_of(
    st.integers(0, 80),  # dense
    st.integers(0, TOP),  # as of a hash
    st.integers(0, 63).map(lambda bit: 1 << bit),  # every level
    st.integers(0, 40).map(lambda low: TOP - low),
    st.builds(lambda high, low: high << 58 | low, st.integers(0, 3), st.integers(0, 70)),  # long common prefixes
    st.integers(0, 255).map(lambda low: 0x1234_5678_9ABC << 8 | low),  # names that collide
)
VALUES = st.one_of(st.binary(max_size=6), st.integers(0, 120).map(bytes))
CHANGES = st.dictionaries(KEYS, st.one_of(st.none(), VALUES, VALUES), max_size=40)
GEOMETRIES = st.builds(
    Geometry, leaf_limit=st.sampled_from([30, 100, 400, 16384]), inline_limit=st.sampled_from([0, 60, 512])
)


def apply(entries: dict[int, bytes], changes: dict[int, bytes | None]) -> dict[int, bytes]:
    """What the changes mean."""
    merged = {**entries, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def value(found: tuple[Leaf, int] | None) -> bytes | None:
    """What a finger found."""
    return None if found is None else found[0].value(found[1])


@settings(max_examples=150)
@given(st.lists(CHANGES, max_size=6), GEOMETRIES, st.booleans(), st.booleans())
def test_any_history_gives_the_tree_of_its_entries(
    history: list[dict[int, bytes | None]], geometry: Geometry, inline: bool, clear: bool
) -> None:
    blocks = MemoryBlocks()
    pointer, entries = b"", dict[int, bytes]()
    finger = radix.Finger(blocks)
    if clear:
        history = [*history, dict.fromkeys(apply({}, {k: v for c in history for k, v in c.items()}))]
    for changes in history:
        before, old = pointer, entries
        pointer = radix.update(blocks, blocks, pointer, changes, geometry, inline)
        entries = apply(entries, changes)
        assert pointer == radix.build(MemoryBlocks(), sorted(entries.items()), geometry, inline)
        assert list(radix.check(blocks, pointer, geometry, inline)) == []
        assert list(radix.scan(blocks, pointer)) == sorted(entries.items())
        assert radix.count(pointer) == len(entries)
        assert all(radix.lookup(blocks, pointer, key) == entries.get(key) for key in [*changes, 0, TOP])
        for key in [*changes, *sorted(changes), 0, TOP]:
            assert value(finger.find(pointer, key)) == entries.get(key)
        for key in changes:
            assert value(finger.find(before, key)) == old.get(key)
            assert value(finger.find(pointer, key)) == entries.get(key)
        expected = [(k, old.get(k), entries.get(k)) for k in sorted(old | entries) if old.get(k) != entries.get(k)]
        assert list(radix.diff(blocks, before, pointer)) == expected


@settings(max_examples=100)
@given(st.dictionaries(KEYS, VALUES, max_size=60), KEYS, KEYS, GEOMETRIES)
def test_scan_is_a_slice(entries: dict[int, bytes], start: int, stop: int, geometry: Geometry) -> None:
    blocks = MemoryBlocks()
    pointer = radix.build(blocks, sorted(entries.items()), geometry, True)
    expected = [(key, value) for key, value in sorted(entries.items()) if start <= key < stop]
    assert list(radix.scan(blocks, pointer, start, stop)) == expected


@settings(max_examples=100)
@given(st.dictionaries(KEYS, VALUES, max_size=60), st.dictionaries(KEYS, VALUES, max_size=60), GEOMETRIES, GEOMETRIES)
def test_diff_is_the_difference_even_across_geometries(
    a: dict[int, bytes], b: dict[int, bytes], geometry: Geometry, other: Geometry
) -> None:
    blocks = MemoryBlocks()
    left = radix.build(blocks, sorted(a.items()), geometry, True)
    right = radix.build(blocks, sorted(b.items()), other, False)
    expected = [(key, a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)]
    assert list(radix.diff(blocks, left, right)) == expected


@settings(max_examples=100)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=60), CHANGES, st.data())
def test_damaged_trees_raise_nothing_but_corrupt(
    entries: dict[int, bytes], changes: dict[int, bytes | None], data: st.DataObject
) -> None:
    blocks = MemoryBlocks()
    geometry = Geometry(leaf_limit=60, inline_limit=0)
    pointer = radix.build(blocks, sorted(entries.items()), geometry, True)
    victim = data.draw(st.sampled_from(sorted(blocks.blocks)))
    raw = bytearray(blocks.blocks[victim])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    blocks.blocks[victim] = bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, 4]))])
    list(radix.check(blocks, pointer, geometry, True))
    for work in (
        lambda: list(radix.scan(blocks, pointer)),
        lambda: [radix.lookup(blocks, pointer, key) for key in entries],
        lambda: radix.update(blocks, blocks, pointer, changes, geometry, True),
        lambda: list(radix.diff(blocks, pointer, b"")),
        lambda: list(radix.diff(blocks, pointer, radix.build(blocks, [(1, b"x")], geometry, False))),
    ):
        try:
            work()
        except (Corrupt, NotFound):
            continue


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x01\x00", b"\x02\x06", b"\x03", b"\x04", b"cowfsrt0"]))
def test_decoders_raise_nothing_but_corrupt(data: bytes, start: bytes) -> None:
    for decode in (decode_node, decode_pointer, decode_root):
        try:
            decode(start + data)
        except Corrupt:
            continue
