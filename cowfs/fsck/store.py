"""Checking a whole store: its tables, and every root that they need."""

from __future__ import annotations

from collections.abc import Iterator

from cowfs.blocks.api import BlockSource
from cowfs.catalog.tables import Tables
from cowfs.errors import CowfsError
from cowfs.fsck.catalog import check_catalog
from cowfs.fsck.problem import Problem
from cowfs.fsck.root import Size, check_root
from cowfs.geometry import Geometry
from cowfs.tree.root import read_root


def check_store(tables: Tables, blocks: BlockSource, geometry: Geometry, *, deep: bool = False) -> Iterator[Problem]:
    """Everything that is wrong with the catalog's tables and with the roots that something needs.

    ``deep``: also read every block of file data, each once. Unsettled layers are looked into by ``check_journals``.
    """

    def has_root(root: bytes) -> bool:
        try:
            read_root(blocks, root)
        except CowfsError:
            return False
        return True

    yield from check_catalog(tables, has_root)
    next_ino: dict[bytes, int] = {}
    sizes: dict[bytes, set[Size]] = {}
    for layer in tables.needed():
        row = tables.layers.get(layer)
        if row is not None and row.root is not None and has_root(row.root):
            next_ino[row.root] = max(row.next_ino, next_ino.get(row.root, 0))
            sizes.setdefault(row.root, set()).add(Size(row.inodes, row.logical_bytes))
    seen: dict[tuple[bytes, int], None] = {}
    for root in sorted(next_ino):
        yield from check_root(blocks, root, geometry, data=deep, next_ino=next_ino[root], seen=seen, sizes=sizes[root])
