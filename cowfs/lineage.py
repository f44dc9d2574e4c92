"""What the catalog says of chains of layers: where two part, what is to be settled, which journals they need."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable
from contextlib import suppress
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.catalog.refs import Resolved
from cowfs.errors import Busy
from cowfs.formats.control import LayerEntry
from cowfs.host import Chain, LayerSpec
from cowfs.layers.journal import file_numbers, file_path


def _spec(entry: LayerEntry) -> LayerSpec:
    return LayerSpec(
        entry.id, entry.workspace or "", entry.parent, entry.spans, entry.next_ino, entry.root, entry.logical_bytes
    )


def chain(catalog: Catalog, layer: str) -> Chain:
    """A layer and what it stands on, down to the first settled one. Raises NotFound."""
    return tuple(map(_spec, catalog.chain(layer)))


def with_ancestors(catalog: Catalog, layers: Iterable[str]) -> dict[str, LayerSpec]:
    """These layers and all that they stand on, down to settled ones, by id."""
    found: dict[str, LayerSpec] = {}
    for layer in layers:
        at: str | None = layer
        while at is not None and at not in found:
            entry = catalog.layer(at)
            found[at] = _spec(entry)
            at = entry.parent if entry.root is None else None
    return found


def horizon(catalog: Catalog, a: Resolved, b: Resolved) -> int:
    """Inode numbers below this mean the same file in both states: next_ino of their common ancestor."""
    seen = set()
    at: str | None = _top(catalog, a)
    while at is not None:
        seen.add(at)
        at = catalog.layer(at).parent
    at = _top(catalog, b)
    while at is not None and at not in seen:
        at = catalog.layer(at).parent
    return 0 if at is None else catalog.layer(at).next_ino


def _top(catalog: Catalog, found: Resolved) -> str:
    if found.snapshot is not None:
        return found.snapshot.layer
    return catalog.workspace(found.workspace.id).parent_layer


class Targets:
    """Snapshots to which a journal may say a workspace was restored, unknown to the control log. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, set[str]] = {}

    def add(self, snapshot: str, workspace: str) -> None:
        """A restore of ``workspace`` to ``snapshot`` begins."""
        with self._lock:
            self._of.setdefault(snapshot, set()).add(workspace)

    def arrived(self, workspace: str) -> None:
        """The control log knows of every restore that the workspace's journal knows of."""
        with self._lock:
            self._of = {snapshot: left for snapshot, users in self._of.items() if (left := users - {workspace})}

    def refuse(self, catalog: Catalog, snapshots: Iterable[str], but: str = "") -> None:
        """Raises Busy when the journal of another workspace than ``but`` may name one of ``snapshots``."""
        with self._lock:
            for snapshot in snapshots:
                for workspace in self._of.get(snapshot, set()) - {but}:
                    name = catalog.workspace(workspace).name
                    raise Busy(
                        f"{name} is being restored to {snapshot}", hint=f"Try again, or checkpoint {name} first."
                    )


def unsettled(catalog: Catalog, stuck: Container[str]) -> list[LayerEntry]:
    """Needed layers without a root, in the order to settle them: ready ones, ``stuck`` ones, those on others."""
    layers = catalog.layers
    waiting = [layers[layer] for layer in catalog.needed() if layers[layer].root is None]
    later = {entry.id for entry in waiting if entry.parent is None or layers[entry.parent].root is None}
    return sorted(waiting, key=lambda entry: (entry.id in later, entry.id in stuck, entry.next_ino, entry.id))


def trim(catalog: Catalog, journals: Path, workspace: str) -> None:
    """Remove journal files that no unsettled or live layer of the workspace needs.

    What the catalog says must be durable. Raises OSError.
    """
    needed = [span[0] for layer in catalog.layers.values() if layer.workspace == workspace for span in layer.spans]
    entry = catalog.workspaces.get(workspace)
    if entry is not None:
        needed.append(entry.position[0] if entry.position is not None else 0)
    first = min(needed, default=None)
    for number in file_numbers(journals, workspace):
        if first is None or number < first:
            file_path(journals, workspace, number).unlink()
    if first is None:
        with suppress(OSError):  # never had one, or something that is not ours lies in it
            (journals / workspace).rmdir()
