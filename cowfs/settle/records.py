"""What an import makes of names and attributes: directories and inode records, the same whatever they come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cowfs.blocks.api import BlockSink
from cowfs.errors import NoSpace
from cowfs.formats.inode import Content, InodeRecord, encode_dirent, encode_inode
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, PAGE, SECTOR, Geometry
from cowfs.tree import radix
from cowfs.tree.content import directory_content, finish_record
from cowfs.tree.names import directory_key

_TIME_MAX = (1 << 63) - 1


class Attributes(NamedTuple):
    """Of an inode: ``mtime`` in ns, also access, change and birth time; ``size`` of a file or target; ``pages``:
    allocated ones of a file; ``xattrs`` sorted by name."""

    mode: int
    uid: int
    gid: int
    mtime: int
    rdev: int = 0
    size: int = 0
    pages: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def allocated_pages(attributes: Attributes) -> int:
    """What an inode has allocated, in pages."""
    if stat.S_ISDIR(attributes.mode):
        return DIRECTORY_BLOCKS * SECTOR // PAGE
    return attributes.pages if stat.S_ISREG(attributes.mode) else 0


def encode(
    writer: BlockSink, geometry: Geometry, attributes: Attributes, links: Iterable[tuple[int, bytes]],
    content: Content, nlink: int,
) -> bytes:  # fmt: skip
    """The record of an inode; ``links``: the (directory, name) that name it."""
    mode, size = attributes.mode, attributes.size
    if stat.S_ISDIR(mode):
        size = DIRECTORY_SIZE
    elif not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        size = 0
    rdev = attributes.rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    time = max(-_TIME_MAX - 1, min(attributes.mtime, _TIME_MAX))  # some filesystems have room for more
    record = InodeRecord(
        mode, attributes.uid, attributes.gid, nlink, rdev, size, allocated_pages(attributes) * PAGE // SECTOR,
        geometry.block_log2, time, time, time, time, attributes.xattrs, tuple(sorted(links)), content,
    )  # fmt: skip
    return encode_inode(finish_record(writer, record))


def store_directory(
    writer: BlockSink, geometry: Geometry, entries: Sequence[tuple[bytes, int, int]], prefix: bytes
) -> tuple[Content, int]:
    """(content of a directory, its link count) from (name, inode, type) in the order of the names.

    Raises NoSpace, naming ``prefix`` with the name, when more than 256 have one key.
    """
    used: dict[int, int] = {}
    encoded: list[tuple[int, bytes]] = []
    subdirectories = 0
    for name, ino, kind in entries:
        key = directory_key(name, geometry.key_bits)
        discriminator = used.get(key, 0)  # nothing is removed: the smallest free one
        if discriminator > 0xFF:
            raise NoSpace(f"{os.fsdecode(prefix + name)}: more than 256 names with one directory key")
        used[key] = discriminator + 1
        encoded.append((key << 8 | discriminator, encode_dirent(ino, kind, name)))
        subdirectories += kind == stat.S_IFDIR >> 12
    encoded.sort()
    return directory_content(radix.build(writer, encoded, geometry, inline=True)), 2 + subdirectories
