"""Checking an open store while it is used: see cowfs.fsck for what must hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import segment_path
from cowfs.catalog.catalog import Catalog
from cowfs.collector import Collector
from cowfs.fsck.index import check_index, check_segments
from cowfs.fsck.journals import check_journals
from cowfs.fsck.problem import Problem
from cowfs.fsck.store import check_store
from cowfs.store import StoreDirectory
from cowfs.trimming import Trimming


class Checking:
    """``lock`` is the engine's, for the catalog. Garbage is not collected meanwhile: what is looked at stays."""

    def __init__(
        self, store: StoreDirectory, catalog: Catalog, lock: threading.RLock, index: BlockIndex, trimming: Trimming,
        collector: Collector,
    ) -> None:  # fmt: skip
        self._store = store
        self._catalog = catalog
        self._lock = lock
        self._index = index
        self._trimming = trimming
        self._collector = collector

    def check(self, deep: bool = False) -> list[Problem]:
        """Everything that is wrong with the store; empty when all is well. Changes nothing.

        ``deep`` also reads and re-hashes every block of file data and every record of every segment.
        """
        store = self._store
        with self._collector.paused():
            with self._trimming.holding():
                with self._lock:
                    tables = self._catalog.tables()
                found = list(check_journals(tables, store.journals))
            # Its own caches: what is in memory would hide what is damaged on disk.
            blocks = BlockReader(self._index, store.segments, raw_cache_bytes=0, node_cache_bytes=0)
            try:
                present = present_in(self._index, store.segments)
                geometry = store.superblock.geometry
                return found + list(
                    chain(
                        check_index(self._index, store.segments),
                        check_segments(self._index, store.segments, deep=deep),
                        check_store(tables, blocks, geometry, deep=deep, present=present),
                    )
                )
            finally:
                blocks.close()


def present_in(index: BlockIndex, segments: Path) -> Callable[[bytes], bool]:
    """Whether a block is in the index and its segment exists: no more than that, so it is quick."""
    exist: dict[int, bool] = {}

    def present(id_: bytes) -> bool:
        location = index.get(id_)
        if location is None:
            return False
        if location.segment not in exist:
            exist[location.segment] = segment_path(segments, location.segment).exists()
        return exist[location.segment]

    return present
