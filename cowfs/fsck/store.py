"""Checking a whole store: its tables, and every root that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cowfs.blocks.api import BlockSource
from cowfs.catalog.tables import Tables
from cowfs.errors import CowfsError
from cowfs.fsck.catalog import check_catalog
from cowfs.fsck.problem import Problem
from cowfs.fsck.refs import refs_of_roots
from cowfs.fsck.root import check_root
from cowfs.fsck.watched import Watched
from cowfs.geometry import Geometry
from cowfs.tree.root import read_root


def check_store(
    tables: Tables,
    blocks: BlockSource,
    geometry: Geometry,
    *,
    deep: bool = False,
    present: Callable[[bytes], bool] | None = None,
) -> Iterator[Problem]:
    """Everything that is wrong with the catalog's tables and with the roots that something needs.

    ``deep``: also read and re-hash every block of file data, each once; else ``present(id)`` says whether one is there.
    A damaged block is one problem, which names each file of each snapshot and workspace that uses it. Unsettled layers
    are looked into by ``check_journals``. ``blocks`` should have no caches, which hide damage.
    """
    watched = Watched(blocks, present, deep)

    def readable(root: bytes) -> bool:
        try:
            read_root(watched, root)
        except CowfsError:
            return False
        return True

    refs = refs_of_roots(tables)
    next_ino: dict[bytes, int] = {}
    for layer in tables.needed():
        row = tables.layers.get(layer)
        if row is not None and row.root is not None:
            next_ino[row.root] = max(row.next_ino, next_ino.get(row.root, 0))
    unreadable = {root for root in next_ino if not readable(root)}
    yield from check_catalog(tables, lambda root: root not in unreadable)
    seen: dict[tuple[bytes, int], None] = {}
    for root in sorted(set(next_ino) - unreadable):
        yield from check_root(
            watched, root, geometry, data=deep, next_ino=next_ino[root], seen=seen, refs=refs.get(root, [])
        )
    for problem in watched.problems():
        if problem.where[len("block ") :] not in {root.hex() for root in unreadable}:
            yield problem
