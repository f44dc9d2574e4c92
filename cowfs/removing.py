"""Removing workspaces and snapshots: what something else still stands on stays, without a name.

``lock`` is the engine's, for the catalog. The host is called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

from cowfs.branches import Branches
from cowfs.catalog.catalog import Catalog
from cowfs.collector import Collector
from cowfs.errors import Busy, CowfsError
from cowfs.formats import control
from cowfs.host import Host
from cowfs.keys import Entries
from cowfs.lineage import Targets
from cowfs.trimming import Trimming


class Removing:
    """``targets``: snapshots that journals may name, and which therefore stay for a moment."""

    def __init__(
        self, catalog: Catalog, lock: threading.RLock, host: Host, branches: Branches, trimming: Trimming,
        targets: Targets, collector: Collector,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._lock = lock
        self._host = host
        self._branches = branches
        self._trimming = trimming
        self._targets = targets
        self._collector = collector

    def workspace(self, entry: control.WorkspaceEntry, force: bool, then: Entries | None) -> None:
        """Remove a workspace and its snapshots, durably. The caller holds its verb lock, and drops and trims later.

        Raises Busy when it is mounted (not with ``force``), or a journal may name one of its snapshots.
        """
        if not force and self._host.serving(entry.id):
            raise Busy(f"{entry.name} is mounted", hint="Unmount it first, or use --force.")
        with self._lock:
            going = [snapshot.id for snapshot in self._catalog.snapshots_of(entry.id)]
            self._targets.refuse(self._catalog, going, entry.id)
            self._branches.commit(control.WorkspaceRemoved(entry.id), sync=True, then=then)
            self._branches.removed(entry.id)
        with suppress(CowfsError, OSError):  # nobody wants its journal to be durable
            self._host.close(entry.id)

    def snapshot(self, snapshot: str, then: Entries | None) -> None:
        """Remove one snapshot, durably. Raises Busy when a journal may name it."""
        with self._lock:
            self._targets.refuse(self._catalog, [snapshot])
            self._branches.commit(control.SnapshotRemoved(snapshot), sync=True, then=then)
        self.drop_unneeded()

    def snapshots(self, ids: Sequence[str]) -> list[str]:
        """Remove snapshots, durably, but those that a journal may name; the ids of those removed.

        The caller, who may hold the lock, drops what nothing needs any more when it does not.
        """
        going = []
        with self._lock:
            for each in ids:
                with suppress(Busy):
                    self._targets.refuse(self._catalog, [each])
                    going.append(each)
            self._branches.commit(*map(control.SnapshotRemoved, going), sync=True)
        return going

    def drop_unneeded(self) -> None:
        """Forget layers that nothing needs any more, and their journals."""
        with self._lock:
            dropped = self._catalog.unreachable()
            if dropped:
                self._catalog.commit(control.LayersDropped(tuple(layer.id for layer in dropped)), sync=True)
        if dropped:
            self._collector.worthwhile = True
            with suppress(Busy):  # a host that has ended holds nothing
                self._host.forget([layer.id for layer in dropped])
        for workspace in {layer.workspace for layer in dropped if layer.workspace is not None}:
            self._trimming.trim(workspace)
