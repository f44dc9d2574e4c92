"""What users call the states that a problem is about."""

from __future__ import annotations

from cowfs.catalog.tables import Tables


def refs_of_roots(tables: Tables) -> dict[bytes, list[str]]:
    """What the user calls the states that stand on each root: workspaces, then snapshots."""
    found: dict[bytes, list[str]] = {}
    for layer, names in refs_of_layers(tables).items():
        row = tables.layers.get(layer)
        if row is not None and row.root is not None:
            found.setdefault(row.root, []).extend(names)
    return {root: list(dict.fromkeys(names)) for root, names in found.items()}


def refs_of_layers(tables: Tables) -> dict[str, list[str]]:
    """What the user calls the states that need each layer, by following parents down to settled layers."""
    users: list[tuple[str, str]] = [(each.name, each.parent_layer) for each in tables.workspaces.values()]
    users += [(ref_of_snapshot(tables, key), each.layer) for key, each in tables.snapshots.items()]
    found: dict[str, list[str]] = {}
    for name, start in users:
        seen: set[str] = set()
        at: str | None = start
        while at is not None and at not in seen:
            seen.add(at)
            found.setdefault(at, []).append(name)
            row = tables.layers.get(at)
            at = row.parent if row is not None and row.root is None else None
    return found


def ref_of_snapshot(tables: Tables, snapshot: str) -> str:
    """``ws@label`` when it has a label, else ``ws@snap-…``."""
    entry = tables.snapshots[snapshot]
    workspace = tables.workspaces.get(entry.workspace)
    name = workspace.name if workspace is not None else entry.workspace
    labels = sorted(label for owner, label in tables.labelled.get(snapshot, {}) if owner == entry.workspace)
    return f"{name}@{labels[0] if labels else snapshot}"
