"""Laws of the encoders: round trips, and decoders that raise Corrupt on malformed bytes and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.blocks.codec import decode, encode
from cowfs.errors import Corrupt
from cowfs.formats import inode, node, segment, superblock
from cowfs.formats.checksum import block_id, xxh3
from cowfs.geometry import Geometry
from tests.golden.test_blocks import DECODERS, HERE, sample

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
NS = st.integers(-(1 << 63), (1 << 63) - 1)
IDS = st.binary(min_size=32, max_size=32)
SAMPLES = {name: [sample(path) for path in HERE.rglob(f"{name}*.hex")] for name in DECODERS}
NAMES = st.binary(min_size=1, max_size=255)
CONTENTS = st.one_of(
    st.just(inode.EMPTY),
    st.builds(inode.Content, st.sampled_from([inode.INLINE, inode.TREE]), U32, st.binary(max_size=600)),
    st.builds(inode.Content, st.just(inode.BLOCK), U32, IDS),
)
XATTRS = st.dictionaries(NAMES, st.binary(max_size=40), max_size=5).map(lambda pairs: tuple(sorted(pairs.items())))
LINKS = st.sets(st.tuples(U64, NAMES), max_size=5).map(lambda links: tuple(sorted(links)))


@pytest.mark.parametrize("name", sorted(DECODERS))
@settings(max_examples=60)
@given(data=st.data())
def test_malformed_bytes_raise_nothing_but_corrupt(name: str, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(SAMPLES[name])))
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    changed = data.draw(
        st.sampled_from([bytes(raw), bytes(raw[:cut]), bytes(raw[cut:]), bytes(raw) + bytes(raw[:cut])])
    )
    try:
        DECODERS[name](changed)
    except Corrupt:
        return


@given(
    st.builds(
        inode.InodeRecord,
        U32,
        U32,
        U32,
        U32,
        U32,
        U64,
        U64,
        st.integers(12, 17),
        NS,
        NS,
        NS,
        NS,
        XATTRS,
        LINKS,
        CONTENTS,
        xattrs_block=st.just(b""),
        links_block=st.just(b""),
    )
)
def test_inode_round_trip(record: inode.InodeRecord) -> None:
    assert inode.decode_inode(inode.encode_inode(record)) == record


@given(st.dictionaries(U64, st.binary(max_size=50), min_size=1, max_size=30))
def test_leaf_round_trip(entries: dict[int, bytes]) -> None:
    keys = sorted(entries)
    leaf = node.decode_leaf(node.encode_leaf(keys, [entries[key] for key in keys]))
    assert list(leaf.keys) == keys
    assert leaf.values() == [leaf.value(index) for index in range(len(keys))] == [entries[key] for key in keys]


@given(st.binary(max_size=3000), st.integers(1, 60))
def test_codec_round_trip(part: bytes, times: int) -> None:
    raw = (part * times)[: segment.RAW_MAX]
    header, stored = encode(raw, block_id(raw))
    assert segment.decode_record_header(segment.encode_record_header(header)) == header
    assert decode(header, stored) == raw
    assert len(stored) <= len(raw)


@given(st.lists(st.tuples(IDS, st.integers(0, segment.RAW_MAX)), max_size=20))
def test_footer_round_trip(blocks: list[tuple[bytes, int]]) -> None:
    entries, at = [], segment.HEADER_BYTES
    for id_, length in blocks:
        entries.append(segment.FooterEntry(id_, at, length, length, segment.RAW))
        at += segment.RECORD_BYTES + length
    assert segment.decode_footer(segment.encode_footer(entries, at), at) == entries


@given(
    st.binary(min_size=16, max_size=16), NS, st.integers(0, 4096), st.integers(1, 32768), st.integers(1, 54),
    st.integers(12, 17),
)  # fmt: skip
def test_superblock_round_trip(store: bytes, when: int, inline: int, leaf: int, bits: int, log2: int) -> None:
    block = superblock.Superblock(store, Geometry(inline, leaf, bits, log2), when)
    assert superblock.decode_superblock(superblock.encode_superblock(block)) == block


@pytest.mark.parametrize(
    "geometry",
    [Geometry(4097), Geometry(-1), Geometry(0, 0), Geometry(0, 40000), Geometry(0, 1, 55), Geometry(0, 1, 1, 18)],
)
def test_impossible_geometry_is_refused(geometry: Geometry) -> None:
    with pytest.raises(ValueError, match="geometry"):
        superblock.encode_superblock(superblock.Superblock(bytes(16), geometry, 0))


def test_later_fields_of_a_newer_readable_superblock_are_passed_over() -> None:
    block = superblock.Superblock(bytes(16), Geometry(), 5, version=3, reader_version=1)
    plain = superblock.encode_superblock(block)[:-8] + b"later field"
    data = plain + xxh3(plain).to_bytes(8, "little")
    assert superblock.decode_superblock(data) == block
