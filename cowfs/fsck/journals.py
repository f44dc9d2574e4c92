"""Checking the journals: of every layer that is not settled, and of what is live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cowfs.catalog.tables import Tables
from cowfs.errors import Corrupt
from cowfs.formats.control import LayerEntry, WorkspaceEntry
from cowfs.fsck.problem import Affected, Problem
from cowfs.fsck.refs import refs_of_layers
from cowfs.layers.journal import JournalFile, Position, read_records
from cowfs.layers.tail import Damage, read_tail


def check_journals(tables: Tables, journals: Path) -> Iterator[Problem]:
    """Every layer whose records cannot be read, and every workspace whose journal is damaged behind its last layer.

    Workspaces may go on writing meanwhile; journal files must not be removed.
    """
    refs = refs_of_layers(tables)
    for layer in sorted(tables.needed()):
        row = tables.layers.get(layer)
        if row is not None and row.root is None:
            yield from _check_layer(row, journals, refs.get(layer, ()))
    for entry in tables.workspaces.values():
        damage = _damage(entry, journals)
        if damage is not None and _damage(entry, journals) == damage:  # else it was being written just then
            what = f"{damage}; it is read-only, as it was before that"
            yield Problem(f"workspace {entry.name}", what, "journal", (entry.name,), 1)


def _check_layer(layer: LayerEntry, journals: Path, refs: Iterable[str]) -> Iterator[Problem]:
    affected = Affected()
    for ref in refs:
        affected.add(ref)
    try:
        for number, start, end in layer.spans:
            file = JournalFile.open(journals, layer.workspace or "", number)
            for _ in read_records(file, start, end):
                pass
    except FileNotFoundError as error:
        yield affected.problem(f"layer {layer.id}", f"{error.filename} is missing", "layer")
    except Corrupt as error:
        yield affected.problem(f"layer {layer.id}", error.message, "layer")


def _damage(entry: WorkspaceEntry, journals: Path) -> str | None:
    try:
        for _ in read_tail(journals, entry.id, Position(*(entry.position or (0, 0, 0)))):
            pass
    except Damage as damage:
        return damage.message
    return None
