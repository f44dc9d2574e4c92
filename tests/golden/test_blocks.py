"""Stored samples of superblock, segment, tree, inode and directory records: read for ever, and written equally.

``blocks/NAME.hex`` is a record that must decode to the value named here and be what that value encodes to.
``blocks/should_fail/DECODER-WHY.hex`` must be refused with Corrupt. A sample is added for every new record and is
never changed once its format version is released.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Corrupt
from cowfs.formats import inode, node, segment, superblock
from cowfs.formats.checksum import block_id, xxh3
from cowfs.geometry import Geometry

HERE = Path(__file__).parent / "blocks"
ID = block_id(b"a block")
OTHER = block_id(b"another")

LEAF = ([1, 2, 1 << 63], [b"one", b"", b"three"])
BRANCH = (
    0x1000,
    6,
    (
        node.Child(0, 4, node.Ref(node.LEAF, 3, 9000, ID)),
        node.Child(16, 0, node.Ref(node.BRANCH, 200, 20000, OTHER)),
        node.Child(32, 5, node.Ref(node.LEAF, 1, 30000, ID)),
    ),
)
FILE = inode.InodeRecord(
    0o100644, 1000, 1001, 2, 0, 5, 8, 17, 10**18, 10**18 + 1, 10**18 + 2, -1,
    ((b"user.a", b""), (b"user.b", b"value")), ((1, b"name"), (7, b"link")), inode.Content(inode.INLINE, 1, b"hello"),
)  # fmt: skip
OUTSIDE = inode.InodeRecord(
    0o100600, 0, 0, 90, 0, 1 << 40, 256, 12, 0, 0, 0, 0, None, None,
    inode.Content(inode.BLOCK, 0xFFFFFFFF, ID), xattrs_block=ID, links_block=OTHER,
)  # fmt: skip
DEVICE = inode.InodeRecord(
    0o020666, 0, 0, 1, 0x103, 0, 0, 17, 1, 2, 3, 4, (), ((1, b"null"),), inode.EMPTY
)  # fmt: skip
FOOTER = [segment.FooterEntry(ID, 24, 500, 100, 1), segment.FooterEntry(OTHER, 188, 0, 0, 0)]


def leaf(data: bytes) -> tuple[list[int], list[bytes]]:
    """A leaf's content."""
    decoded = node.decode_leaf(data)
    return list(decoded.keys), decoded.values()


def branch(data: bytes) -> tuple[int, int, tuple[node.Child, ...]]:
    """A branch's content."""
    decoded = node.decode_branch(data)
    return decoded.base, decoded.shift, decoded.children


def footer(data: bytes) -> list[segment.FooterEntry]:
    """A footer that begins at byte 252."""
    return segment.decode_footer(data, 252)


SUPER = superblock.Superblock(bytes(range(16)), Geometry(), 1_700_000_000_000_000_000)
RECORDS: dict[str, tuple[object, Callable[[], bytes], Callable[[bytes], Any]]] = {
    "superblock": (SUPER, lambda: superblock.encode_superblock(SUPER), superblock.decode_superblock),
    "segment_header": (77, lambda: segment.encode_header(77), segment.decode_header),
    "record_raw": (
        segment.RecordHeader(0, 7, 7, xxh3(b"a block"), ID),
        lambda: segment.encode_record_header(segment.RecordHeader(0, 7, 7, xxh3(b"a block"), ID)),
        segment.decode_record_header,
    ),
    "record_zstd": (
        segment.RecordHeader(1, 131072, 20, 5, ID),
        lambda: segment.encode_record_header(segment.RecordHeader(1, 131072, 20, 5, ID)),
        segment.decode_record_header,
    ),
    "segment_footer": (FOOTER, lambda: segment.encode_footer(FOOTER, 252), footer),
    "leaf": (LEAF, lambda: node.encode_leaf(*LEAF), leaf),
    "branch": (BRANCH, lambda: node.encode_branch(BRANCH[0], BRANCH[1], list(BRANCH[2])), branch),
    "pointer_leaf": (
        node.Ref(node.LEAF, 3, 90, ID),
        lambda: node.encode_ref(node.Ref(node.LEAF, 3, 90, ID)),
        node.decode_pointer,
    ),
    "pointer_branch": (
        node.Ref(node.BRANCH, 3000, 1 << 33, ID),
        lambda: node.encode_ref(node.Ref(node.BRANCH, 3000, 1 << 33, ID)),
        node.decode_pointer,
    ),
    "root": (
        node.Root(node.encode_ref(node.Ref(node.LEAF, 3, 90, ID))),
        lambda: node.encode_root(node.Root(node.encode_ref(node.Ref(node.LEAF, 3, 90, ID)))),
        node.decode_root,
    ),
    "inode_file": (FILE, lambda: inode.encode_inode(FILE), inode.decode_inode),
    "inode_lists_outside": (OUTSIDE, lambda: inode.encode_inode(OUTSIDE), inode.decode_inode),
    "inode_device": (DEVICE, lambda: inode.encode_inode(DEVICE), inode.decode_inode),
    "xattrs": (FILE.xattrs, lambda: inode.encode_xattrs(FILE.xattrs or ()), inode.decode_xattrs),
    "links": (FILE.links, lambda: inode.encode_links(FILE.links or ()), inode.decode_links),
    "dirent": (
        inode.Dirent(0x1234, 9, 8, b"\xff name"),
        lambda: inode.encode_dirent(9, 8, b"\xff name"),
        lambda data: inode.decode_dirent(0x1234, data),
    ),
    "file_block": ((0x80000001, ID), lambda: inode.encode_file_block(0x80000001, ID), inode.decode_file_block),
}

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "superblock": superblock.decode_superblock,
    "segment_header": segment.decode_header,
    "record": segment.decode_record_header,
    "segment_footer": footer,
    "leaf": node.decode_leaf,
    "branch": node.decode_branch,
    "pointer": node.decode_pointer,
    "root": node.decode_root,
    "inode": inode.decode_inode,
    "xattrs": inode.decode_xattrs,
    "links": inode.decode_links,
    "dirent": lambda data: inode.decode_dirent(0x1234, data),
    "file_block": inode.decode_file_block,
}


def sample(path: Path) -> bytes:
    """A sample's bytes; white space in the file means nothing."""
    return bytes.fromhex(path.read_text())


def test_every_record_has_its_sample() -> None:
    assert {path.stem for path in HERE.glob("*.hex")} == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_sample_decodes_to_its_value(name: str) -> None:
    value, _, decode = RECORDS[name]
    assert decode(sample(HERE / f"{name}.hex")) == value


@pytest.mark.parametrize("name", RECORDS)
def test_value_encodes_to_its_sample(name: str) -> None:
    assert RECORDS[name][1]() == sample(HERE / f"{name}.hex")


@pytest.mark.parametrize("name", RECORDS)
def test_every_shortened_or_lengthened_sample_is_refused_or_another_value(name: str) -> None:
    value, _, decode = RECORDS[name]
    data = sample(HERE / f"{name}.hex")
    for changed in (*(data[:length] for length in range(len(data))), data + b"\0"):
        try:
            assert decode(changed) != value
        except Corrupt:
            continue


@pytest.mark.parametrize("path", sorted((HERE / "should_fail").glob("*.hex")), ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    with pytest.raises(Corrupt):
        DECODERS[path.stem.split("-")[0]](sample(path))


def test_every_decoder_refuses_something() -> None:
    refused = {path.stem.split("-")[0] for path in (HERE / "should_fail").glob("*.hex")}
    assert refused == set(DECODERS)


def test_a_newer_store_is_told_apart_from_a_damaged_one() -> None:
    with pytest.raises(Corrupt, match="format version 2") as caught:
        superblock.decode_superblock(sample(HERE / "should_fail" / "superblock-newer.hex"))
    assert caught.value.hint == "it was made by a newer cowfs; upgrade"
