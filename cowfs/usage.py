"""What a store holds, and what each workspace alone keeps on disk."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.catalog.catalog import Catalog
from cowfs.results import StoreUsage, WorkspaceUsage
from cowfs.store import StoreDirectory
from cowfs.tree.walk import walk_root

_SHARED = ""


class Shown:
    """The folder ``directory`` of files written out for read-only mounts; it may be missing.

    They are counted again only when one came or went: there may be 100,000; and once more after that, since what comes
    within the same tick of the clock leaves no trace. Who asks while they are counted is told what there was before.
    Thread-safe.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._counted: list[tuple[str, int]] = []
        self._times = 0
        self._size_bytes = 0
        self._counting = threading.Lock()

    def size_bytes(self) -> int:
        """What they take on disk."""
        if self._counting.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._counting.release()
        return self._size_bytes

    def _count(self) -> None:
        folders = []
        with suppress(FileNotFoundError):
            folders = [(folder.path, folder.stat().st_mtime_ns) for folder in os.scandir(self._directory)]
        self._times = self._times + 1 if folders == self._counted else 1
        if self._times <= 2:
            size_bytes = 0
            for path, _ in folders:
                with suppress(FileNotFoundError), os.scandir(path) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):
                            size_bytes += entry.stat().st_blocks * 512
            self._size_bytes = size_bytes
            self._counted = folders


def measure(store: StoreDirectory, catalog: Catalog, index: BlockIndex, blocks: BlockReader) -> StoreUsage:
    """Usage as of what is settled; time depends on the number of tree blocks. Raises Corrupt."""
    found = index.statistics()
    entries = sorted(catalog.workspaces.values(), key=lambda entry: entry.name)
    exclusive = _exclusive(catalog, index, blocks)
    logical = 0
    for entry in entries:
        logical += catalog.chain(entry.parent_layer)[-1].logical_bytes
    journal = sum(path.stat().st_size for path in store.journals.glob("*/*.journal"))
    return StoreUsage(
        logical, found.stored_bytes, found.blocks, found.segments, journal, Shown(store.shown).size_bytes(),
        tuple(WorkspaceUsage(entry.name, exclusive.get(entry.id, 0)) for entry in entries),
    )  # fmt: skip


def _exclusive(catalog: Catalog, index: BlockIndex, blocks: BlockReader) -> dict[str, int]:
    """Stored bytes of the blocks that only one workspace (and its snapshots) needs, by workspace id."""
    owner: dict[bytes, str] = {}

    for entry in catalog.workspaces.values():

        def visit(block: bytes, me: str = entry.id) -> bool:
            before = owner.get(block)
            if before in (me, _SHARED):
                return False
            owner[block] = me if before is None else _SHARED
            return True

        layers = {snapshot.layer for snapshot in catalog.snapshots_of(entry.id)} | {entry.parent_layer}
        for root in {catalog.chain(layer)[-1].root for layer in layers}:
            if root is not None:
                walk_root(blocks, root, visit)
    sums: dict[str, int] = {}
    for block, workspace in owner.items():
        if workspace != _SHARED:
            location = index.get(block)
            sums[workspace] = sums.get(workspace, 0) + (location.stored_len if location is not None else 0)
    return sums
