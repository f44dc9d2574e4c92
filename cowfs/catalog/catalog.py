"""The owner's book-keeping: the control log and the tables it derives, as one object.

Threads: ``commit`` and ``compact`` hold one lock; ``sync`` only the log's own. Reading takes no lock: rows are
immutable and tables are plain dictionaries, so each call sees a committed row, but a caller that needs several
calls to agree holds a lock of its own around them and its commits. A group is visible to readers while it is being
made durable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from cowfs.catalog.apply import apply, drop_result
from cowfs.catalog.log import ControlLog
from cowfs.catalog.tables import Tables
from cowfs.errors import Corrupt, CowfsError, NotFound
from cowfs.formats.control import (
    KINDS,
    Idempotency,
    LayerEntry,
    Operation,
    Row,
    SnapshotEntry,
    WorkspaceEntry,
    decode_operations,
    encode_operations,
)

COMPACT_BYTES = 1024 * 1024
"""A log smaller than this is never worth rewriting."""

_ROWS_PER_ENTRY = 1000
_ROW_KIND = 64


@dataclass(frozen=True, slots=True)
class CatalogStatistics:
    """``operations``: in the log. ``rows``: what a compact log would hold. ``cut_bytes``: torn tail cut at open."""

    workspaces: int
    snapshots: int
    layers: int
    unsettled_layers: int
    log_bytes: int
    operations: int
    rows: int
    sequence: int
    cut_bytes: int
    compaction_due: bool


class Catalog:
    """Workspaces, snapshots, labels and layers of one store. Made by :meth:`open`; usable in ``with``."""

    def __init__(self, log: ControlLog, tables: Tables, operations: int) -> None:
        self._log = log
        self._tables = tables
        self._operations = operations
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path | str, *, create: bool = False, salt: int = 0) -> Catalog:
        """Read the control log in ``directory``; with ``create``, make an empty one if there is none.

        ``salt``: 64 random bits for a new log, unknown to sandboxes, so that no data they write can pass for an
        entry of the log. Raises :class:`NotFound` without a log, :class:`Corrupt` on damage, naming the offset.
        """
        path = Path(directory)
        if create:
            ControlLog.create(path, salt)
        log, entries = ControlLog.open(path)
        tables, operations = Tables(), 0
        try:
            for offset, payload in entries:
                operations += _replay(tables, offset, payload)
        except BaseException:
            log.close()
            raise
        return cls(log, tables, operations)

    def commit(self, *operations: Operation, sync: bool, then: Callable[[], Iterable[Operation]] | None = None) -> None:
        """Apply ``operations`` in order as one group: all of them, durable on return with ``sync``, or none.

        ``then`` gives what ends the group, and is called when the rest is applied and can be read.

        Raises :class:`Conflict`, :class:`NotFound`, :class:`Invalid` when one is refused, :class:`NoSpace` when
        the log cannot grow; then nothing was written and nothing changed. When only the sync fails, the group is
        applied, may or may not survive a power loss, and the catalog takes no further groups.
        """
        if any(KINDS[type(operation)] >= _ROW_KIND for operation in operations):
            raise TypeError("rows are written by compact() alone")
        if operations or then is not None:
            with self._lock:
                self._commit(operations, then)
        if sync:
            self._log.sync()

    def _commit(self, operations: tuple[Operation, ...], then: Callable[[], Iterable[Operation]] | None) -> None:
        payload = encode_operations(operations)
        self._tables.begin()
        try:
            apply(self._tables, operations)
            if then is not None:
                last = tuple(then())
                payload += encode_operations(last)
                apply(self._tables, last)
                operations += last
            if operations:
                self._log.append(payload)
        except BaseException:
            self._tables.rollback()
            raise
        self._tables.commit()
        self._operations += len(operations)

    def sync(self) -> None:
        """Make every group committed so far durable."""
        self._log.sync()

    def compact(self, now: int | None = None) -> None:
        """Rewrite the log as the rows of the tables; with ``now`` (ns), without idempotency results that expired.

        Durable on return. When it raises, the old log is still whole.
        """
        with self._lock:
            self._tables.begin()
            try:
                if now is not None:
                    for result in [r for r in self._tables.results.values() if r.expires_at <= now]:
                        drop_result(self._tables, result.key)
                self._log.rewrite(payloads(self._tables))
            except BaseException:
                self._tables.rollback()
                raise
            self._tables.commit()
            self._operations = self._tables.row_count()

    def statistics(self) -> CatalogStatistics:
        """Sizes right now. ``compaction_due``: the log is large, and more than half of its operations are dead."""
        tables, rows = self._tables, self._tables.row_count()
        due = self._log.size >= COMPACT_BYTES and self._operations > 2 * rows
        unsettled = sum(layer.root is None for layer in tuple(tables.layers.values()))
        return CatalogStatistics(
            len(tables.workspaces), len(tables.snapshots), len(tables.layers), unsettled,
            self._log.size, self._operations, rows, self._log.last, self._log.cut_bytes, due,
        )  # fmt: skip

    def close(self) -> None:
        """Sync and close the log."""
        self._log.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # ---- workspaces, labels, settings

    @property
    def workspaces(self) -> Mapping[str, WorkspaceEntry]:
        """Every workspace by id."""
        return MappingProxyType(self._tables.workspaces)

    def workspace(self, workspace: str) -> WorkspaceEntry:
        """The workspace with this id. Raises :class:`NotFound`."""
        return self._tables.workspace(workspace)

    def by_name(self, name: str) -> WorkspaceEntry:
        """The workspace with this name. Raises :class:`NotFound`."""
        try:
            return self._tables.workspaces[self._tables.names[name]]
        except KeyError:
            raise NotFound(f"no workspace {name!a}", hint="cowfs list shows the workspaces") from None

    def line(self, workspace: str) -> Iterator[tuple[WorkspaceEntry, int | None]]:
        """The workspace with this id, then its ancestors, each with the ordinal up to which its snapshots belong
        to the workspace's line (None: all). Raises :class:`NotFound`."""
        return self._tables.line(workspace)

    def in_line(self, workspace: str, snapshot: SnapshotEntry) -> bool:
        """Whether the workspace may be restored to ``snapshot``: its own, or an ancestor's up to its fork point."""
        return self._tables.in_line(workspace, snapshot)

    def labels(self, workspace: str) -> Mapping[str, str]:
        """Label -> snapshot id, the workspace's own labels only."""
        return MappingProxyType(self._tables.labels.get(workspace, {}))

    def settings(self, target: str) -> Mapping[str, bytes]:
        """What :class:`Set` stored for a workspace, a snapshot, or ``store``."""
        return MappingProxyType(self._tables.settings.get(target, {}))

    def result(self, key: str) -> Idempotency | None:
        """The stored result of the request with this idempotency key, expired or not."""
        return self._tables.results.get(key)

    # ---- snapshots

    @property
    def snapshots(self) -> Mapping[str, SnapshotEntry]:
        """Every snapshot by id."""
        return MappingProxyType(self._tables.snapshots)

    def snapshot(self, snapshot: str) -> SnapshotEntry:
        """The snapshot with this id. Raises :class:`NotFound`."""
        return self._tables.snapshot(snapshot)

    def snapshots_of(self, workspace: str) -> list[SnapshotEntry]:
        """The workspace's own snapshots, oldest first, automatic ones included."""
        rows = [self._tables.snapshots[snapshot] for snapshot in self._tables.owned.get(workspace, ())]
        return sorted(rows, key=lambda row: row.ordinal)

    def labels_of(self, snapshot: str, workspace: str | None = None) -> tuple[str, ...]:
        """The labels that name the snapshot, sorted: in ``workspace``, by default the one it was made in."""
        owner = workspace or self._tables.snapshot(snapshot).workspace
        return tuple(sorted(label for at, label in self._tables.labelled.get(snapshot, ()) if at == owner))

    # ---- layers

    @property
    def layers(self) -> Mapping[str, LayerEntry]:
        """Every frozen or settled layer by id."""
        return MappingProxyType(self._tables.layers)

    def has_name(self, name: str) -> bool:
        """Whether a workspace has this name."""
        return name in self._tables.names

    def layer(self, layer: str) -> LayerEntry:
        """The frozen or settled layer with this id. Raises :class:`NotFound`."""
        return self._tables.layer(layer)

    def chain(self, layer: str) -> list[LayerEntry]:
        """From ``layer`` down to and including the first settled one. Raises :class:`NotFound`."""
        return self._tables.chain(layer)

    def children(self, layer: str) -> list[LayerEntry]:
        """The frozen and settled layers right on ``layer``. Live ones: see the workspaces' ``parent_layer``."""
        return [self._tables.layers[child] for child in self._tables.layer_children.get(layer, ())]

    def needed(self) -> set[str]:
        """Ids of the layers that some snapshot or workspace needs in order to be read."""
        return self._tables.needed()

    def unreachable(self) -> list[LayerEntry]:
        """Layers that nothing needs. Give their ids to one :class:`LayersDropped`, then remove their journals."""
        needed = self.needed()
        return [layer for layer in tuple(self._tables.layers.values()) if layer.id not in needed]

    def roots(self) -> set[bytes]:
        """Roots of the needed layers: what garbage collection must keep."""
        layers = (self._tables.layers[layer] for layer in self.needed())
        return {layer.root for layer in layers if layer.root is not None}

    def journal_files(self) -> set[tuple[str, int]]:
        """(workspace id, file number) of the journal files that hold a needed layer which has not settled."""
        layers = (self._tables.layers[layer] for layer in self.needed())
        return {(layer.workspace or "", span[0]) for layer in layers for span in layer.spans}

    def rows(self) -> list[Operation | Row]:
        """Everything, in a canonical order: equal catalogs have equal rows."""
        return list(self._tables.rows())

    def tables(self) -> Tables:
        """The tables as they are now, for fsck: a copy."""
        return self._tables.copy()


def _replay(tables: Tables, offset: int, payload: bytes) -> int:
    """Apply one entry of the log. Raises :class:`Corrupt` when it is malformed or contradicts the tables."""
    try:
        operations = decode_operations(payload)
        apply(tables, operations)
    except CowfsError as error:
        raise Corrupt(f"control log: entry at offset {offset}: {error.message}", hint=error.hint) from error
    return len(operations)


def payloads(tables: Tables) -> Iterator[bytes]:
    """The entries of a compact log."""
    batch: list[Any] = []
    size = 0
    for row in tables.rows():
        payload = encode_operations((row,))
        if batch and (len(batch) >= _ROWS_PER_ENTRY or size + len(payload) > COMPACT_BYTES):
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(payload)
        size += len(payload)
    yield b"".join(batch)
