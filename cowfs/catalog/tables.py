"""The tables that the control log derives: plain dictionaries of immutable rows, with rollback.

:mod:`cowfs.catalog.apply` changes them, one function per operation. While a group of operations is applied, every
change records what was there before, so that a group is applied whole or not at all.

Invariants (checked by :func:`cowfs.fsck.check_catalog`):
- ``names``, ``live``, ``owned``, ``labelled``, ``users`` and both ``children`` tables are derived from the rows;
- a workspace's ``parent_layer`` and a snapshot's ``layer`` are in ``layers``, and so is the parent of an unsettled
  layer; from any of them, parents lead to a settled layer;
- ordinals of snapshots are distinct and at most ``counters["ordinal"]``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from cowfs.errors import NotFound
from cowfs.formats.control import (
    Counters,
    Idempotency,
    Labelled,
    LayerEntry,
    Operation,
    Row,
    Set,
    SnapshotEntry,
    WorkspaceEntry,
)

K = TypeVar("K")
V = TypeVar("V")
_ABSENT = object()


class Tables:
    """All tables of one store. Callers outside this package read them through :class:`cowfs.catalog.Catalog`."""

    def __init__(self) -> None:
        self.workspaces: dict[str, WorkspaceEntry] = {}
        self.layers: dict[str, LayerEntry] = {}
        self.snapshots: dict[str, SnapshotEntry] = {}
        self.labels: dict[str, dict[str, str]] = {}  # workspace -> label -> snapshot
        self.settings: dict[str, dict[str, bytes]] = {}  # workspace, snapshot or "store" -> key -> value
        self.results: dict[str, Idempotency] = {}
        self.counters: dict[str, int] = {"ordinal": 0, "result_bytes": 0}
        self.names: dict[str, str] = {}  # name -> workspace
        self.live: dict[str, str] = {}  # live layer -> workspace
        self.owned: dict[str, dict[str, None]] = {}  # workspace -> its snapshots
        self.labelled: dict[str, dict[tuple[str, str], None]] = {}  # snapshot -> (workspace, label)
        self.users: dict[str, int] = {}  # layer -> workspaces and snapshots right on it
        self.layer_children: dict[str, dict[str, None]] = {}
        self.snapshot_children: dict[str, dict[str, None]] = {}
        self._undo: list[tuple[MutableMapping[Any, Any], Any, Any]] | None = None

    def copy(self) -> Tables:
        """The same tables as they are now, whatever changes later."""
        other = Tables()
        for name, table in vars(self).items():
            if isinstance(table, dict):
                values = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
                setattr(other, name, values)
        return other

    # ---- changes, with rollback

    def begin(self) -> None:
        """From now on every change can be rolled back."""
        self._undo = []

    def commit(self) -> None:
        """Keep every change since :meth:`begin`."""
        self._undo = None

    def rollback(self) -> None:
        """Take back every change since :meth:`begin`. The order of keys in the tables may change."""
        undo, self._undo = self._undo or [], None
        for table, key, old in reversed(undo):
            if old is _ABSENT:
                del table[key]
            else:
                table[key] = old

    def put(self, table: MutableMapping[K, V], key: K, value: V) -> None:
        """``table[key] = value``."""
        if self._undo is not None:
            self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def drop(self, table: MutableMapping[K, V], key: K) -> None:
        """Remove ``key``, which must be there."""
        if self._undo is not None:
            self._undo.append((table, key, table[key]))
        del table[key]

    def put_in(self, outer: MutableMapping[str, dict[K, V]], key: str, inner_key: K, value: V) -> None:
        """``outer[key][inner_key] = value``."""
        inner = outer.get(key)
        if inner is None:
            self.put(outer, key, inner := {})
        self.put(inner, inner_key, value)

    def drop_in(self, outer: MutableMapping[str, dict[K, V]], key: str, inner_key: K) -> None:
        """Remove ``outer[key][inner_key]``, which must be there, and an inner table that got empty."""
        self.drop(outer[key], inner_key)
        if not outer[key]:
            self.drop(outer, key)

    def use(self, layer: str, by: int) -> None:
        """One more (``by`` 1) or one less (-1) workspace or snapshot lies right on ``layer``."""
        count = self.users.get(layer, 0) + by
        if count:
            self.put(self.users, layer, count)
        else:
            self.drop(self.users, layer)

    # ---- reading

    def workspace(self, workspace: str) -> WorkspaceEntry:
        """The workspace with this id. Raises :class:`NotFound`."""
        try:
            return self.workspaces[workspace]
        except KeyError:
            raise NotFound(f"no workspace with id {workspace}", hint="cowfs list shows the workspaces") from None

    def snapshot(self, snapshot: str) -> SnapshotEntry:
        """The snapshot with this id. Raises :class:`NotFound`."""
        try:
            return self.snapshots[snapshot]
        except KeyError:
            raise NotFound(f"no snapshot {snapshot}", hint="cowfs log WS shows a workspace's snapshots") from None

    def layer(self, layer: str) -> LayerEntry:
        """The frozen or settled layer with this id. Raises :class:`NotFound`."""
        try:
            return self.layers[layer]
        except KeyError:
            raise NotFound(f"no layer {layer}") from None

    def line(self, workspace: str) -> Iterator[tuple[WorkspaceEntry, int | None]]:
        """The workspace, then its ancestors that still exist, each with the ordinal up to which its snapshots
        belong to the line (None: all)."""
        entry: WorkspaceEntry | None = self.workspace(workspace)
        bound: int | None = None
        seen: set[str] = set()  # only a damaged log has a circle
        while entry is not None and entry.id not in seen:
            seen.add(entry.id)
            yield entry, bound
            bound = entry.fork_ordinal if bound is None else min(bound, entry.fork_ordinal)
            entry = self.workspaces.get(entry.origin_workspace) if entry.origin_workspace else None

    def in_line(self, workspace: str, snapshot: SnapshotEntry) -> bool:
        """Whether ``snapshot`` is the workspace's own, or an ancestor's up to the fork point."""
        for entry, bound in self.line(workspace):
            if entry.id == snapshot.workspace:
                return bound is None or snapshot.ordinal <= bound
        return False

    def chain(self, layer: str) -> list[LayerEntry]:
        """From ``layer`` down to and including the first settled one. Raises :class:`NotFound`."""
        chain = [self.layer(layer)]
        while chain[-1].root is None and chain[-1].parent is not None:
            chain.append(self.layer(chain[-1].parent))
        return chain

    def needed(self) -> set[str]:
        """Layers that reading some snapshot or workspace needs: the union of their chains."""
        needed: set[str] = set()
        for layer in self.users:
            at: str | None = layer
            while at is not None and at not in needed:
                needed.add(at)
                entry = self.layers[at]
                at = entry.parent if entry.root is None else None
        return needed

    def rows(self) -> Iterator[Operation | Row]:
        """Everything in the tables, as rows and operations that rebuild them when applied in this order.

        Sorted, so that equal tables give equal rows.
        """
        yield Counters(self.counters["ordinal"])
        yield from self._layers_parents_first()
        yield from _sorted(self.workspaces)
        yield from sorted(self.snapshots.values(), key=lambda entry: entry.ordinal)
        for workspace, labels in sorted(self.labels.items()):
            for label, snapshot in sorted(labels.items()):
                yield Labelled(workspace, label, snapshot)
        for target, settings in sorted(self.settings.items()):
            for key, value in sorted(settings.items()):
                yield Set(target, key, value)
        yield from self.results_by_age()

    def results_by_age(self) -> list[Idempotency]:
        """Kept results, the one first that expires first."""
        return sorted(self.results.values(), key=lambda result: (result.expires_at, result.key))

    def row_count(self) -> int:
        """How many rows and operations :meth:`rows` gives."""
        rows = len(self.layers) + len(self.workspaces) + len(self.snapshots) + len(self.results)
        return 1 + rows + sum(map(len, self.labels.values())) + sum(map(len, self.settings.values()))

    def _layers_parents_first(self) -> Iterator[LayerEntry]:
        done: set[str] = set()
        for layer in sorted(self.layers):
            above: list[LayerEntry] = []
            at: str | None = layer
            while at is not None and at not in done:
                done.add(at)
                above.append(self.layers[at])
                at = above[-1].parent
            yield from reversed(above)


def _sorted(table: dict[str, V]) -> Iterator[V]:
    return (table[key] for key in sorted(table))
