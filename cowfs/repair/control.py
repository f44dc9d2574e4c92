"""Mending the control log: every whole entry that fits those before it."""

from __future__ import annotations

from pathlib import Path

from cowfs.catalog.apply import apply
from cowfs.catalog.catalog import Catalog, payloads
from cowfs.catalog.log import LOG, ControlLog, whole_entries
from cowfs.catalog.tables import Tables
from cowfs.errors import Corrupt, CowfsError
from cowfs.formats import control
from cowfs.layers.journal import FIRST_FILE, file_path
from cowfs.quarantine import Quarantine
from cowfs.repair.report import Repaired, bounded


def repair_control(directory: Path, salt: int, journals: Path, quarantine: Quarantine) -> list[Repaired]:
    """Make the control log readable. ``salt``: of a log whose header is damaged. Raises NotFound, NoSpace, OSError.

    What is lost of a workspace may be in its journal still: behind the first gap its position does not go on by itself,
    as long as the file is there.
    """
    try:
        Catalog.open(directory).close()
        return []
    except Corrupt as error:
        message = error.message
    path = directory / LOG
    tables, lost, last = Tables(), [], 0
    for sequence, payload in whole_entries(path.read_bytes(), salt):
        if last and sequence > last + 1:
            lost.append(f"{sequence - last - 1} entries of the control log, which cannot be read")
        last = sequence
        lost += _applied(tables, payload, journals if lost else None)
    if not last:
        raise Corrupt("control log: nothing of it can be read", hint="restore control/log from a copy of the store")
    kept = quarantine.copy(path)
    ControlLog.replace(directory, salt, last + 1, payloads(tables))
    return [Repaired("control/log", f"{message}; its readable entries stay", kept, bounded(lost))]


def _applied(tables: Tables, payload: bytes, journals: Path | None) -> list[str]:
    """Apply an entry, whole or, if it holds rows, row by row; what could not be. ``journals``: behind a gap."""
    try:
        operations = control.decode_operations(payload)
    except Corrupt as error:
        return [error.message]
    if journals is not None and len(operations) == 1 and isinstance(operations[0], control.Position):
        entry = tables.workspaces.get(operations[0].workspace)
        number = entry.position[0] if entry is not None and entry.position is not None else 0
        if file_path(journals, operations[0].workspace, number or FIRST_FILE).exists():
            return []
    rows = all(control.KINDS[type(each)] >= control.KINDS[control.WorkspaceEntry] for each in operations)
    lost = []
    for group in [(each,) for each in operations] if rows else [operations]:
        tables.begin()
        try:
            apply(tables, group)
        except CowfsError as error:
            tables.rollback()
            lost += [f"{_said(each)}: {error.message}" for each in group]
        else:
            tables.commit()
    return lost


def _said(operation: control.Operation | control.Row) -> str:
    match operation:
        case control.SnapshotMade() | control.SnapshotEntry():
            return f"snapshot {operation.id} {operation.message!r} of workspace {operation.workspace}"
        case control.WorkspaceCreated() | control.WorkspaceEntry():
            return f"workspace {operation.name} ({operation.id})"
        case control.Labelled():
            return f"label {operation.label} of workspace {operation.workspace}"
        case _:
            return f"an entry of kind {type(operation).__name__}"
