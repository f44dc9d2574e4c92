"""The parameters that decide the shape of stored trees. They are fixed when a store is created."""

from dataclasses import dataclass

PAGE = 4096
"""Bytes in a page: the unit in which a file is allocated or a hole, as on ext4."""

SECTOR = 512
"""Bytes in one unit of ``st_blocks``."""

ROOT_INO = 1
"""Inode number of every workspace's root directory; FUSE's node id of the mount root."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the canonical form of a tree depends on, besides its content.

    ``inline_limit``: bytes up to which file data or a tree leaf lives in the inode record.
    ``leaf_limit``: bytes of entries up to which a radix subtree is one leaf.
    ``key_bits``: bits of BLAKE3(name) used in a directory key (54; tests narrow it).
    ``block_log2``: log2 of the default block size in bytes, 12 to 17.
    """

    inline_limit: int = 512
    leaf_limit: int = 16384
    key_bits: int = 54
    block_log2: int = 17


DIRECTORY_SIZE = 4096
"""``st_size`` of every directory, whatever it holds, so that settling and forking never change it."""

DIRECTORY_BLOCKS = 8
"""``st_blocks`` of every directory."""
