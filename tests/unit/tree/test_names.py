"""Directory keys, discriminators, and finding a name among colliding ones."""

from collections.abc import Iterable

import pytest
from blake3 import blake3

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt
from cowfs.formats.inode import Dirent, encode_dirent
from cowfs.geometry import Geometry
from cowfs.tree import radix
from cowfs.tree.names import directory_key, find_name, free_discriminator


def directory(blocks: MemoryBlocks, names: Iterable[bytes], key: int) -> bytes:
    """A directory tree in which all names have the same key."""
    entries = {key << 8 | number: encode_dirent(number + 2, 8, name) for number, name in enumerate(names)}
    return radix.update(blocks, blocks, b"", entries, Geometry(leaf_limit=200), True)


def test_key_is_the_first_bits_of_the_hash() -> None:
    bits = int.from_bytes(blake3(b"etc").digest(), "big") >> (256 - 54)
    assert directory_key(b"etc") == bits
    assert directory_key(b"etc", 8) == bits >> 46
    assert directory_key(b"etc") << 8 < 1 << 62


def test_no_key_reaches_the_reserved_cookies() -> None:
    keys = {directory_key(str(number).encode(), 2) for number in range(100)}
    assert keys == {1, 2, 3}


def test_discriminators_fill_gaps_and_end() -> None:
    assert free_discriminator(()) == 0
    assert free_discriminator({0, 1, 3}) == 2
    assert free_discriminator(set(range(255))) == 255
    assert free_discriminator(range(256)) is None


def test_find_among_colliding_names() -> None:
    blocks = MemoryBlocks()
    names = [b"name-%d" % number for number in range(256)]
    pointer = directory(blocks, names, 7)
    for number in (0, 1, 200, 255):
        assert find_name(blocks, pointer, 7, names[number]) == Dirent(7 << 8 | number, number + 2, 8, names[number])
    assert find_name(blocks, pointer, 7, b"other") is None
    assert find_name(blocks, pointer, 8, names[0]) is None
    assert find_name(blocks, pointer, 6, names[255]) is None
    assert find_name(blocks, b"", 7, names[0]) is None


def test_find_when_the_first_discriminator_was_deleted() -> None:
    blocks = MemoryBlocks()
    pointer = directory(blocks, [b"a", b"b"], 7)
    pointer = radix.update(blocks, blocks, pointer, {7 << 8: None}, Geometry(), True)
    assert find_name(blocks, pointer, 7, b"b") == Dirent(7 << 8 | 1, 3, 8, b"b")
    assert find_name(blocks, pointer, 7, b"a") is None


def test_only_the_entry_of_the_name_is_judged() -> None:
    blocks = MemoryBlocks()
    entries = {7 << 8: encode_dirent(0, 8, b"nowhere"), 7 << 8 | 1: encode_dirent(3, 8, b"a"), 7 << 8 | 2: b"short"}
    pointer = radix.update(blocks, blocks, b"", entries, Geometry(), True)
    assert find_name(blocks, pointer, 7, b"a") == Dirent(7 << 8 | 1, 3, 8, b"a")
    assert find_name(blocks, pointer, 7, b"b") is None
    with pytest.raises(Corrupt):
        find_name(blocks, pointer, 7, b"nowhere")
