"""What stores blocks for an engine: child processes, their segments, and leases on what they hand in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from cowfs.blocks.api import Location
from cowfs.blocks.index import BlockIndex
from cowfs.blocks.suspect import Deaths
from cowfs.geometry import Geometry
from cowfs.leases import Act, Leases, Marked
from cowfs.reserve import Reserve
from cowfs.settle.pool import SegmentPool
from cowfs.settle.process import BACKGROUND, WAITED_FOR, Settler
from cowfs.store import StoreDirectory


class Jobs:
    """``settler`` settles and makes the roots of empty workspaces, ``importer`` imports, ``copier`` works for garbage
    collection, ``exporter`` exports: none waits for another, and each writes to segments of its own.

    ``leases`` are on what the settler hands in, ``import_leases`` on what the importer does: an import may take hours,
    and what is settled meanwhile must not be held for so long.
    """

    def __init__(self, store: StoreDirectory, index: BlockIndex, geometry: Geometry, reserve: Reserve) -> None:
        def moved(records: Sequence[tuple[bytes, Location]], _: Sequence[bytes]) -> list[bytes]:
            reserve.enough(partial(index.move, records))
            return []

        def commit(records: Sequence[tuple[bytes, Location]], relied_on: Sequence[bytes]) -> list[bytes]:
            return reserve.enough(partial(index.commit, records, relied_on))

        def reaped(code: int) -> None:
            index.clear_readers()
            self.deaths.died("settler", code)

        self.deaths = Deaths(store.index)
        self.segments = SegmentPool(store.segments)
        self.leases, self.import_leases = Leases(commit), Leases(commit)
        self.settler, self.importer, self.copier, self.exporter = (
            Settler(store.index, store.tmp, self.segments, geometry, takes, niceness=niceness, reaped=reaped)
            for takes, niceness in (
                (self.leases.commit, BACKGROUND),
                (self.import_leases.commit, WAITED_FOR),
                (moved, BACKGROUND),
                (self.leases.commit, WAITED_FOR),
            )
        )

    def free(self, ids: Iterable[bytes], act: Act) -> Marked:
        """``act`` on those of ``ids`` that nobody has a lease on, while nothing can be handed in."""
        return self.leases.free(ids, lambda rest: self.import_leases.free(rest, act))

    def close(self) -> None:
        """End the processes when their jobs are done."""
        self.exporter.close()
        self.importer.close()
        self.copier.close()
        self.settler.close()
