"""Gives frozen layers their roots, one at a time.

Locks: ``_one`` makes callers take turns, since the journals of a layer go when it is settled; ``lock`` is the
engine's, for the catalog. The host is called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.errors import Corrupt, CowfsError
from cowfs.formats import control
from cowfs.host import Host
from cowfs.layers.journal import file_path
from cowfs.leases import Leases
from cowfs.lineage import unsettled
from cowfs.settle.delta import SettledLayer
from cowfs.trimming import Trimming

HURRY_LAYERS = 2
"""Frozen layers that wait when settling is given as much of the processors as others have: writers would wait soon."""


class Settling:
    """The frozen layers of one store. ``settle`` makes a root as ``Settler.settle`` does; ``clock`` gives ns."""

    def __init__(
        self,
        catalog: Catalog,
        lock: threading.RLock,
        settle: Callable[[bytes, Sequence[tuple[str, int, int]]], SettledLayer],
        host: Host,
        trimming: Trimming,
        journals: Path,
        clock: Callable[[], int],
        leases: Leases,
    ) -> None:
        self._leases = leases
        self._catalog = catalog
        self._lock = lock
        self._settle = settle
        self._host = host
        self._trimming = trimming
        self._journals = journals
        self._clock = clock
        self._stuck: set[str] = set()
        self._one = threading.Lock()

    def waiting(self) -> list[control.LayerEntry]:
        """Frozen layers that something needs and that have no root yet; those that can be settled now first."""
        with self._lock:
            return unsettled(self._catalog, self._stuck)

    def behind(self) -> bool:
        """Whether settling falls behind those who write."""
        return len(self.waiting()) >= HURRY_LAYERS

    def next(self) -> bool:
        """Settle the oldest frozen layer; False when there is none. Raises what the settler reports."""
        with self._one:
            self._tell_stuck()
            waiting = self.waiting()
            if not waiting:
                return False
            layer = waiting[0]
            with self._lock:
                parent = self._catalog.layer(layer.parent) if layer.parent is not None else None
            if parent is None or parent.root is None:
                raise Corrupt(f"layer {layer.id} stands on nothing settled", hint="Run: cowfs fsck")
            with self._leases.publishing():
                settled = self._settled(layer, parent.root)
                published = settled is not None and self._published(layer, settled, parent.logical_bytes)
            if settled is not None and published:
                self._host.settled(layer.id, settled.root, settled.contents)
                self._trimming.trim(layer.workspace or "")
            return True

    def _tell_stuck(self) -> None:
        """Writers must not wait for what cannot be settled; a worker that was just started does not know of it."""
        with self._lock:
            stuck = self._stuck & self._catalog.layers.keys()
        if self._stuck:
            self._host.stall(stuck)
            self._stuck = stuck

    def _settled(self, layer: control.LayerEntry, parent_root: bytes) -> SettledLayer | None:
        """The layer with its root; None when nothing needs it any more, and its journals may be gone."""
        workspace = layer.workspace or ""
        spans = [(str(file_path(self._journals, workspace, span[0])), span[1], span[2]) for span in layer.spans]
        try:
            return self._settle(parent_root, spans)
        except CowfsError as error:
            with self._lock:
                if layer.id not in self._catalog.layers:
                    return None
            if isinstance(error, Corrupt):
                self._stuck.add(layer.id)
            raise

    def _published(self, layer: control.LayerEntry, settled: SettledLayer, below_bytes: int) -> bool:
        """Let the control log know the root; False when nothing needs it any more."""
        with self._lock:
            if layer.id not in self._catalog.layers:
                return False
            logical = below_bytes + settled.logical_bytes
            self._catalog.commit(control.Settled(layer.id, settled.root, logical, settled.inodes), sync=True)
            if self._catalog.statistics().compaction_due:
                self._catalog.compact(self._clock())
            return True
