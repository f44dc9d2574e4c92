"""What each operation does to the tables, and when it is refused. One function per operation or row.

The same code runs for a new group and for a replay, so a log that was written replays to the same tables.
Each function raises :class:`Conflict`, :class:`NotFound` or :class:`Invalid`; the caller then rolls the group back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cowfs.catalog.names import check_label, check_workspace_name
from cowfs.catalog.tables import Tables
from cowfs.errors import Conflict, NotFound
from cowfs.formats.control import (
    Counters,
    Froze,
    Idempotency,
    Labelled,
    LayerEntry,
    LayerImported,
    LayersDropped,
    Operation,
    Position,
    Renamed,
    Restored,
    Row,
    Set,
    Settled,
    SnapshotEntry,
    SnapshotMade,
    SnapshotRemoved,
    WorkspaceCreated,
    WorkspaceEntry,
    WorkspaceRemoved,
)
from cowfs.remembered import KEPT_NS, RESULT_BYTES_MAX, RESULTS_MAX

STORE = "store"
"""The target of settings that belong to the whole store."""

UNDO = "undo"
"""Setting of a workspace: the snapshot that takes back its last restore."""


def apply(tables: Tables, operations: Iterable[Operation | Row]) -> None:
    """Apply ``operations`` in order. Leaves the tables half changed when one is refused: roll back."""
    for operation in operations:
        _APPLY[type(operation)](tables, operation)


def _taken(what: str, hint: str = "") -> Conflict:
    return Conflict(f"{what} exists already", hint=hint)


# ---- layers


def _new_layer(tables: Tables, row: LayerEntry) -> None:
    if row.id in tables.layers or row.id in tables.live:
        raise _taken(f"layer {row.id}")
    if row.parent is not None:
        if row.root is None:
            tables.layer(row.parent)
        tables.put_in(tables.layer_children, row.parent, row.id, None)
    elif row.root is None:
        raise Conflict(f"layer {row.id} has neither a parent nor a root")
    tables.put(tables.layers, row.id, row)


def _new_live(tables: Tables, layer: str, workspace: str) -> None:
    if layer in tables.layers or layer in tables.live:
        raise _taken(f"layer {layer}")
    tables.put(tables.live, layer, workspace)


def _layer_imported(tables: Tables, op: LayerImported) -> None:
    if op.parent is not None:
        tables.layer(op.parent)
    _new_layer(tables, LayerEntry(op.layer, op.parent, None, (), op.next_ino, op.root, op.logical_bytes, op.inodes))


def _froze(tables: Tables, op: Froze) -> None:
    entry = tables.workspace(op.workspace)
    if entry.live_layer != op.layer or entry.parent_layer != op.parent_layer:
        raise Conflict(f"layer {op.layer} on {op.parent_layer} is not the live layer of workspace {entry.name}")
    tables.drop(tables.live, op.layer)
    next_ino = max(entry.next_ino, op.next_ino)
    _new_layer(tables, LayerEntry(op.layer, op.parent_layer, op.workspace, tuple(op.spans), next_ino, None, 0, 0))
    _move(tables, entry._replace(next_ino=next_ino), op.live_layer, op.layer)


def _move(tables: Tables, entry: WorkspaceEntry, live: str, parent: str) -> None:
    """``live``, a new live layer on ``parent``, is the workspace's; its old one is out of the table already."""
    _new_live(tables, live, entry.id)
    tables.use(parent, 1)
    tables.use(entry.parent_layer, -1)
    tables.put(tables.workspaces, entry.id, entry._replace(live_layer=live, parent_layer=parent))


def _settled(tables: Tables, op: Settled) -> None:
    entry = tables.layer(op.layer)
    if entry.root not in (None, op.root):
        raise Conflict(f"layer {op.layer} has settled with another root")
    settled = entry._replace(spans=(), root=op.root, logical_bytes=op.logical_bytes, inodes=op.inodes)
    tables.put(tables.layers, op.layer, settled)


def _layers_dropped(tables: Tables, op: LayersDropped) -> None:
    """Children of a dropped layer, settled ones, become children of its nearest ancestor that stays."""
    going = dict.fromkeys(op.layers)
    for layer in going:
        tables.layer(layer)
        children = tables.layer_children.get(layer, {})
        if layer in tables.users or any(c not in going and tables.layers[c].root is None for c in children):
            raise Conflict(f"layer {layer} is still needed")
    for layer in going:
        _drop_layer(tables, tables.layers[layer])


def _drop_layer(tables: Tables, entry: LayerEntry) -> None:
    for child in list(tables.layer_children.get(entry.id, {})):
        tables.put(tables.layers, child, tables.layers[child]._replace(parent=entry.parent))
        if entry.parent is not None:
            tables.put_in(tables.layer_children, entry.parent, child, None)
    if entry.id in tables.layer_children:
        tables.drop(tables.layer_children, entry.id)
    if entry.parent is not None:
        tables.drop_in(tables.layer_children, entry.parent, entry.id)
    tables.drop(tables.layers, entry.id)


# ---- workspaces


def _new_workspace(tables: Tables, row: WorkspaceEntry) -> None:
    if row.id in tables.workspaces:
        raise _taken(f"workspace {row.id}")
    _check_free(tables, row.name)
    tables.layer(row.parent_layer)
    _new_live(tables, row.live_layer, row.id)
    tables.use(row.parent_layer, 1)
    tables.put(tables.names, row.name, row.id)
    tables.put(tables.workspaces, row.id, row)


def _check_free(tables: Tables, name: str) -> None:
    check_workspace_name(name)
    if name in tables.names:
        raise _taken(f"workspace {name}", "choose another name")


def _workspace_created(tables: Tables, op: WorkspaceCreated) -> None:
    if op.head is not None:
        tables.snapshot(op.head)
    fork_ordinal = 0
    if op.origin_workspace is not None:
        tables.workspace(op.origin_workspace)
        fork_ordinal = tables.counters["ordinal"]
    if op.origin_snapshot is not None:
        origin = tables.snapshot(op.origin_snapshot)
        if op.origin_workspace is None or not tables.in_line(op.origin_workspace, origin):
            raise Conflict(f"snapshot {origin.id} is not in the line of workspace {op.origin_workspace}")
        fork_ordinal = origin.ordinal
    row = WorkspaceEntry(
        op.id, op.name, op.created_at, op.live_layer, op.parent_layer, op.head,
        op.origin_workspace, op.origin_snapshot, fork_ordinal, op.next_ino, None,
    )  # fmt: skip
    _new_workspace(tables, row)


def _restored(tables: Tables, op: Restored) -> None:
    entry, snapshot = tables.workspace(op.workspace), tables.snapshot(op.snapshot)
    if not tables.in_line(entry.id, snapshot):
        raise Conflict(
            f"snapshot {snapshot.id} is not in the line of workspace {entry.name}", hint="fork the snapshot instead"
        )
    if snapshot.layer != op.parent_layer:
        raise Conflict(f"snapshot {snapshot.id} is not of layer {op.parent_layer}")
    tables.drop(tables.live, entry.live_layer)
    entry = entry._replace(head=snapshot.id, next_ino=max(entry.next_ino, op.next_ino))
    _move(tables, entry, op.live_layer, op.parent_layer)


def _position(tables: Tables, op: Position) -> None:
    entry = tables.workspace(op.workspace)
    if entry.position is not None and op.seq < entry.position[2]:
        raise Conflict(f"journal position of workspace {entry.name} would go back to sequence {op.seq}")
    tables.put(tables.workspaces, entry.id, entry._replace(position=(op.file_no, op.offset, op.seq)))


def _renamed(tables: Tables, op: Renamed) -> None:
    entry = tables.workspace(op.workspace)
    if entry.name == op.name:
        return
    _check_free(tables, op.name)
    tables.drop(tables.names, entry.name)
    tables.put(tables.names, op.name, entry.id)
    tables.put(tables.workspaces, entry.id, entry._replace(name=op.name))


def _workspace_removed(tables: Tables, op: WorkspaceRemoved) -> None:
    """Its forks become forks of its own origin, so that their line still reaches the ancestors that stay."""
    entry = tables.workspace(op.workspace)
    _remove_snapshots(tables, dict.fromkeys(tables.owned.get(entry.id, {})))
    for label, snapshot in tables.labels.get(entry.id, {}).copy().items():
        _unlabel(tables, entry.id, label, snapshot)
    for fork in [w for w in tables.workspaces.values() if w.origin_workspace == entry.id]:
        ordinal = min(fork.fork_ordinal, entry.fork_ordinal) if entry.origin_workspace else 0
        fork = fork._replace(origin_workspace=entry.origin_workspace, fork_ordinal=ordinal)
        tables.put(tables.workspaces, fork.id, fork)
    if entry.id in tables.settings:
        tables.drop(tables.settings, entry.id)
    tables.use(entry.parent_layer, -1)
    tables.drop(tables.live, entry.live_layer)
    tables.drop(tables.names, entry.name)
    tables.drop(tables.workspaces, entry.id)


# ---- snapshots and labels


def _new_snapshot(tables: Tables, row: SnapshotEntry) -> None:
    if row.id in tables.snapshots:
        raise _taken(f"snapshot {row.id}")
    tables.workspace(row.workspace)
    tables.layer(row.layer)
    if row.parent is not None:
        tables.put_in(tables.snapshot_children, row.parent, row.id, None)
    tables.use(row.layer, 1)
    tables.put_in(tables.owned, row.workspace, row.id, None)
    tables.put(tables.snapshots, row.id, row)


def _snapshot_made(tables: Tables, op: SnapshotMade) -> None:
    entry = tables.workspace(op.workspace)
    ordinal = tables.counters["ordinal"] + 1
    parent = op.parent if op.parent in tables.snapshots else None  # removed between its marker and this copy of it
    row = SnapshotEntry(
        op.id, op.workspace, parent, op.layer, op.message, op.creator, op.created_at, op.automatic, ordinal
    )
    _new_snapshot(tables, row)
    tables.put(tables.counters, "ordinal", ordinal)
    tables.put(tables.workspaces, entry.id, entry._replace(head=op.id))
    for label in op.labels:
        _labelled(tables, Labelled(entry.id, label, op.id))


def _snapshot_removed(tables: Tables, op: SnapshotRemoved) -> None:
    tables.snapshot(op.snapshot)
    _remove_snapshots(tables, {op.snapshot: None})


def _remove_snapshots(tables: Tables, going: dict[str, None]) -> None:
    """Children of a removed snapshot become children of its parent; workspaces on it have no head any more."""
    if not going:
        return
    for workspace in [w for w in tables.workspaces.values() if w.head in going or w.origin_snapshot in going]:
        head = None if workspace.head in going else workspace.head
        origin = None if workspace.origin_snapshot in going else workspace.origin_snapshot
        tables.put(tables.workspaces, workspace.id, workspace._replace(head=head, origin_snapshot=origin))
    for snapshot in going:
        row = tables.snapshots[snapshot]
        for workspace_id, label in tables.labelled.get(snapshot, {}).copy():
            _unlabel(tables, workspace_id, label, snapshot)
        for child in tables.snapshot_children.get(snapshot, {}).copy():
            tables.put(tables.snapshots, child, tables.snapshots[child]._replace(parent=row.parent))
            if row.parent is not None:
                tables.put_in(tables.snapshot_children, row.parent, child, None)
        if snapshot in tables.snapshot_children:
            tables.drop(tables.snapshot_children, snapshot)
        if row.parent is not None:
            tables.drop_in(tables.snapshot_children, row.parent, snapshot)
        if snapshot in tables.settings:
            tables.drop(tables.settings, snapshot)
        tables.drop_in(tables.owned, row.workspace, snapshot)
        tables.use(row.layer, -1)
        tables.drop(tables.snapshots, snapshot)


def _labelled(tables: Tables, op: Labelled) -> None:
    entry = tables.workspace(op.workspace)
    old = tables.labels.get(entry.id, {}).get(op.label)
    if op.snapshot is None:
        if old is None:
            raise NotFound(f"workspace {entry.name} has no label {op.label}")
        _unlabel(tables, entry.id, op.label, old)
        return
    check_label(op.label)
    if not tables.in_line(entry.id, tables.snapshot(op.snapshot)):
        raise Conflict(f"snapshot {op.snapshot} is not in the line of workspace {entry.name}")
    if old is not None:
        _unlabel(tables, entry.id, op.label, old)
    tables.put_in(tables.labels, entry.id, op.label, op.snapshot)
    tables.put_in(tables.labelled, op.snapshot, (entry.id, op.label), None)


def _unlabel(tables: Tables, workspace: str, label: str, snapshot: str) -> None:
    tables.drop_in(tables.labels, workspace, label)
    tables.drop_in(tables.labelled, snapshot, (workspace, label))


# ---- the rest


def _set(tables: Tables, op: Set) -> None:
    if op.target != STORE and op.target not in tables.workspaces and op.target not in tables.snapshots:
        raise NotFound(f"no workspace or snapshot with id {op.target}")
    if op.value is not None:
        tables.put_in(tables.settings, op.target, op.key, op.value)
    elif op.key in tables.settings.get(op.target, {}):
        tables.drop_in(tables.settings, op.target, op.key)


def _idempotency(tables: Tables, op: Idempotency) -> None:
    """Bounded: when there are too many results, those that have expired go, and then the oldest half."""
    if op.key in tables.results:
        drop_result(tables, op.key)
    results, size = tables.results, tables.counters["result_bytes"] + len(op.result)
    if len(results) >= RESULTS_MAX or size > RESULT_BYTES_MAX:
        for old in tables.results_by_age():
            few = len(results) <= RESULTS_MAX // 2 and tables.counters["result_bytes"] <= RESULT_BYTES_MAX // 2
            if few and old.expires_at > op.expires_at - KEPT_NS:
                break
            drop_result(tables, old.key)
    tables.put(tables.counters, "result_bytes", tables.counters["result_bytes"] + len(op.result))
    tables.put(tables.results, op.key, op)


def drop_result(tables: Tables, key: str) -> None:
    """Keep the result of this key no longer."""
    tables.put(tables.counters, "result_bytes", tables.counters["result_bytes"] - len(tables.results[key].result))
    tables.drop(tables.results, key)


def _counters(tables: Tables, row: Counters) -> None:
    tables.put(tables.counters, "ordinal", row.ordinal)


_APPLY: dict[type[Any], Callable[[Tables, Any], None]] = {
    WorkspaceCreated: _workspace_created,
    Froze: _froze,
    LayerImported: _layer_imported,
    SnapshotMade: _snapshot_made,
    Restored: _restored,
    Position: _position,
    Settled: _settled,
    Labelled: _labelled,
    Renamed: _renamed,
    WorkspaceRemoved: _workspace_removed,
    SnapshotRemoved: _snapshot_removed,
    LayersDropped: _layers_dropped,
    Set: _set,
    Idempotency: _idempotency,
    WorkspaceEntry: _new_workspace,
    LayerEntry: _new_layer,
    SnapshotEntry: _new_snapshot,
    Counters: _counters,
}
