"""Directories as radix trees: where a name lies.

An entry's key in its directory's tree is its readdir cookie, ``directory_key << 8 | discriminator``. Names whose
keys collide differ in the discriminator, the smallest one that is free when the name is inserted.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache

from cowfs.blocks.api import BlockSource
from cowfs.formats.checksum import block_id
from cowfs.formats.inode import Dirent, dirent_of
from cowfs.tree import radix

DISCRIMINATORS = 256
"""Names with equal keys that one directory can hold."""


@lru_cache(maxsize=1024)  # making a name asks for its key up to three times
def directory_key(name: bytes, key_bits: int = 54) -> int:
    """The first ``key_bits`` bits of BLAKE3(name), 1 to 2**key_bits - 1.

    0 becomes 1, so that no cookie is below 256: 0, 1 and 2 mean the start, ``.`` and ``..`` to readdir.
    With 54 bits a cookie stays below 2^62, positive as a signed 64-bit directory offset.
    """
    return int.from_bytes(block_id(name)[:8], "big") >> (64 - key_bits) or 1


def free_discriminator(used: Container[int]) -> int | None:
    """The smallest discriminator that is not in ``used``; None if all 256 are (ENOSPC)."""
    return next((number for number in range(DISCRIMINATORS) if number not in used), None)


def find_name(blocks: BlockSource, pointer: bytes, key: int, name: bytes) -> Dirent | None:
    """The entry of ``name`` in a directory's tree, ``key`` being its :func:`directory_key`. Raises Corrupt."""
    for cookie, value in radix.group(blocks, pointer, key << 8, 8):
        entry = dirent_of(name, cookie, value)
        if entry is not None:
            return entry
    return None
