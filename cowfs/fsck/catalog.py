"""What must hold of the owner's tables, apart from how they came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from cowfs.catalog.names import check_label, check_workspace_name
from cowfs.catalog.tables import Tables
from cowfs.errors import Corrupt, CowfsError
from cowfs.fsck.problem import Affected, Problem
from cowfs.fsck.refs import refs_of_layers
from cowfs.remembered import decode_result


def check_catalog(tables: Tables, has_root: Callable[[bytes], bool]) -> Iterator[Problem]:
    """Everything that is wrong with the tables (``Catalog.tables()``). ``has_root``: whether a root block exists."""
    yield from _check_layers(tables, has_root)
    yield from _check_workspaces(tables)
    yield from _check_snapshots(tables)
    yield from _check_labels(tables)
    yield from _check_derived(tables)


def _check_layers(tables: Tables, has_root: Callable[[bytes], bool]) -> Iterator[Problem]:
    needed = {layer for layer in _needed(tables) if layer in tables.layers}
    refs = refs_of_layers(tables)
    yield from _check_spans(tables)
    for layer in tables.layers.values():
        where = f"layer {layer.id}"
        if layer.parent is not None and layer.parent not in tables.layers:
            yield Problem(where, f"its parent {layer.parent} does not exist", "catalog-layer")
        if layer.root is None:
            if not _reaches_settled(tables, layer.id):
                yield Problem(where, "its parents do not lead to a settled layer", "catalog-layer")
        elif layer.spans:
            yield Problem(where, "it has settled and still names journal files", "catalog-layer")
        elif layer.id in needed and not has_root(layer.root):
            affected = Affected()
            for ref in refs.get(layer.id, ()):
                affected.add(ref)
            yield affected.problem(where, f"its root {layer.root.hex()} is not in the block store", "root")
        parent = tables.layers.get(layer.parent) if layer.parent is not None else None
        if parent is not None and parent.next_ino > layer.next_ino:
            yield Problem(where, "its parent has given out inode numbers that it would give out again", "catalog-layer")


def _check_spans(tables: Tables) -> Iterator[Problem]:
    """Each byte of a journal belongs to one layer at most, and none is behind the workspace's position."""
    ends: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
    for layer in tables.layers.values():
        for number, start, end in layer.spans:
            ends.setdefault((layer.workspace or "", number), []).append((start, end, layer.id))
        entry = tables.workspaces.get(layer.workspace or "")
        position = None if entry is None else entry.position
        if position is not None and any((number, end) > position[:2] for number, _, end in layer.spans):
            yield Problem(f"layer {layer.id}", "its journal goes on behind the workspace's position", "catalog-layer")
    for (_, number), spans in ends.items():
        for (_, end, _), (start, _, layer_id) in pairwise(sorted(spans)):
            if start < end:
                what = f"its part of journal file {number} is another layer's, too"
                yield Problem(f"layer {layer_id}", what, "catalog-layer")


def _needed(tables: Tables) -> Iterator[str]:
    """The layers that must be readable, by following parents with a guard against cycles."""
    seen: set[str] = set()
    starts = [w.parent_layer for w in tables.workspaces.values()] + [s.layer for s in tables.snapshots.values()]
    for start in starts:
        at: str | None = start
        while at is not None and at not in seen:
            seen.add(at)
            yield at
            layer = tables.layers.get(at)
            at = layer.parent if layer is not None and layer.root is None else None


def _reaches_settled(tables: Tables, layer: str) -> bool:
    seen: set[str] = set()
    at: str | None = layer
    while at is not None and at not in seen and (row := tables.layers.get(at)) is not None:
        if row.root is not None:
            return True
        seen.add(at)
        at = row.parent
    return False


def _check_workspaces(tables: Tables) -> Iterator[Problem]:
    for key, workspace in tables.workspaces.items():
        where = f"workspace {workspace.name} ({workspace.id})"
        try:
            check_workspace_name(workspace.name)
        except CowfsError as error:
            yield Problem(where, error.message, "catalog-workspace")
        if key != workspace.id or tables.names.get(workspace.name) != workspace.id:
            yield Problem(where, "its name leads to another workspace", "catalog-workspace")
        if tables.live.get(workspace.live_layer) != workspace.id or workspace.live_layer in tables.layers:
            yield Problem(where, f"its live layer {workspace.live_layer} is not its own", "catalog-workspace")
        parent = tables.layers.get(workspace.parent_layer)
        if parent is None:
            yield Problem(where, f"its parent layer {workspace.parent_layer} does not exist", "catalog-workspace")
        elif workspace.next_ino < parent.next_ino and parent.workspace == workspace.id:
            yield Problem(where, "it would give out inode numbers that its parent layer has used", "catalog-workspace")
        for snapshot in (workspace.head, workspace.origin_snapshot):
            if snapshot is not None and snapshot not in tables.snapshots:
                yield Problem(where, f"it names snapshot {snapshot}, which does not exist", "catalog-workspace")
        yield from (Problem(where, what, "catalog-workspace") for what in _check_origin(tables, workspace.id))


def _check_origin(tables: Tables, workspace: str) -> Iterator[str]:
    seen: set[str] = set()
    at: str | None = workspace
    while at is not None:
        if at in seen:
            yield "it descends from itself"
            return
        seen.add(at)
        entry = tables.workspaces.get(at)
        if entry is None:
            yield f"its ancestor {at} does not exist"
            return
        at = entry.origin_workspace


def _check_snapshots(tables: Tables) -> Iterator[Problem]:
    ordinals = Counter(snapshot.ordinal for snapshot in tables.snapshots.values())
    for key, snapshot in tables.snapshots.items():
        where = f"snapshot {snapshot.id}"
        if key != snapshot.id:
            yield Problem(where, f"it is filed under {key}", "catalog-snapshot")
        if snapshot.workspace not in tables.workspaces:
            yield Problem(where, f"its workspace {snapshot.workspace} does not exist", "catalog-snapshot")
        if snapshot.layer not in tables.layers:
            yield Problem(where, f"its layer {snapshot.layer} does not exist", "catalog-snapshot")
        if ordinals[snapshot.ordinal] > 1 or not 0 < snapshot.ordinal <= tables.counters["ordinal"]:
            yield Problem(where, f"impossible ordinal {snapshot.ordinal}", "catalog-snapshot")
        if snapshot.parent is not None:
            parent = tables.snapshots.get(snapshot.parent)
            if parent is None:
                yield Problem(where, f"its parent {snapshot.parent} does not exist", "catalog-snapshot")
            elif parent.ordinal >= snapshot.ordinal:
                yield Problem(where, f"its parent {snapshot.parent} is younger", "catalog-snapshot")


def _check_labels(tables: Tables) -> Iterator[Problem]:
    for workspace, labels in tables.labels.items():
        if workspace not in tables.workspaces:
            yield Problem(f"labels of {workspace}", "the workspace does not exist", "catalog-label")
            continue
        for label, snapshot in labels.items():
            where = f"label {label} of {tables.workspaces[workspace].name}"
            try:
                check_label(label)
            except CowfsError as error:
                yield Problem(where, error.message, "catalog-label")
            if snapshot not in tables.snapshots:
                yield Problem(where, f"its snapshot {snapshot} does not exist", "catalog-label")
            elif not tables.in_line(workspace, tables.snapshots[snapshot]):
                yield Problem(where, f"its snapshot {snapshot} is not in the workspace's line", "catalog-label")
    for target in tables.settings:
        if target != "store" and target not in tables.workspaces and target not in tables.snapshots:
            yield Problem(f"settings of {target}", "no workspace or snapshot has this id", "catalog-setting")
    for key, kept in tables.results.items():
        try:
            decode_result(kept.result)
        except Corrupt as error:
            yield Problem(f"the result under idempotency key {key}", error.message, "catalog-result")


def _check_derived(tables: Tables) -> Iterator[Problem]:
    """The tables that are derived from the rows, against the rows."""
    workspaces, layers, snapshots = tables.workspaces.values(), tables.layers.values(), tables.snapshots.values()
    users = Counter([w.parent_layer for w in workspaces] + [s.layer for s in snapshots])
    labelled = [(s, w, label) for w, labels in tables.labels.items() for label, s in labels.items()]
    pairs: list[tuple[str, object, object]] = [
        ("names", tables.names, {w.name: w.id for w in workspaces}),
        ("live layers", tables.live, {w.live_layer: w.id for w in workspaces}),
        ("users of layers", tables.users, dict(users)),
        ("owners of snapshots", _flat(tables.owned), {(s.workspace, s.id) for s in snapshots}),
        ("children of layers", _flat(tables.layer_children), {(r.parent, r.id) for r in layers if r.parent}),
        ("children of snapshots", _flat(tables.snapshot_children), {(s.parent, s.id) for s in snapshots if s.parent}),
        ("sizes of results", tables.counters["result_bytes"], sum(len(r.result) for r in tables.results.values())),
        ("labels of snapshots", _flat(tables.labelled), {(s, (w, label)) for s, w, label in labelled}),
    ]
    for what, derived, rows in pairs:
        if derived != rows:
            yield Problem("catalog", f"the table of {what} does not agree with the rows", "catalog-table")


def _flat(table: Mapping[str, Mapping[Any, None]]) -> set[tuple[str, object]]:
    return {(key, value) for key, values in table.items() for value in values}
