"""Mending journals: what lies behind damage goes to quarantine, and the workspace goes on from before it."""

from __future__ import annotations

import os
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.durable import sync_directory, write_synced
from cowfs.formats import control
from cowfs.formats import journal as fmt
from cowfs.layers.journal import FIRST_FILE, Position, file_numbers, file_path
from cowfs.layers.tail import Damage, read_tail
from cowfs.quarantine import Quarantine
from cowfs.repair.report import Repaired


def repair_journals(catalog: Catalog, journals: Path, quarantine: Quarantine) -> list[Repaired]:
    """Every workspace's journal can be written to again; those of nobody are put away. Raises NoSpace, OSError.

    Layers that are damaged themselves stay as they are: no state that never was takes the place of a snapshot.
    """
    done = []
    tables = catalog.tables()
    known = set(tables.workspaces) | {each.workspace for each in tables.layers.values()}
    for path in sorted(journals.iterdir()):
        if path.name not in known:
            what = "the journal of a workspace that the control log does not know"
            done.append(Repaired(quarantine.name(path), what, quarantine.move(path)))
    for entry in tables.workspaces.values():
        done += _repair(catalog, entry, journals, quarantine)
    return done


def _repair(catalog: Catalog, entry: control.WorkspaceEntry, journals: Path, quarantine: Quarantine) -> list[Repaired]:
    position = Position(*(entry.position or (0, 0, 0)))
    number, good, seq = 0, 0, position.seq
    time = 0
    try:
        for file, _, end, envelope in read_tail(journals, entry.id, position):
            number, good = file.file_no, end
            if envelope is not None:
                seq, time = envelope.seq, envelope.time
        return []
    except Damage as error:
        message = error.message
    kept = []
    for later in reversed(file_numbers(journals, entry.id)):
        if later > number and later >= (position.file_no or FIRST_FILE):
            kept.append(quarantine.move(file_path(journals, entry.id, later)))
    if number:
        path = file_path(journals, entry.id, number)
        kept.append(quarantine.copy(path))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, good)
            os.fsync(fd)
        finally:
            os.close(fd)
    else:
        _begin_anew(catalog, entry, journals, position)
    since = f"changes since record {seq}" + (f", of {time} ns since the epoch," if time else "")
    lost = (f"{entry.name}: {since} are lost",)
    return [Repaired(f"journals/{entry.id}", message, ", ".join(reversed(kept)), lost)]


def _begin_anew(catalog: Catalog, entry: control.WorkspaceEntry, journals: Path, position: Position) -> None:
    """Not even the position can be read: the journal goes on in a new file."""
    number = max([position.file_no, FIRST_FILE - 1, *file_numbers(journals, entry.id)]) + 1
    path = file_path(journals, entry.id, number)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_synced(path, fmt.encode_header(fmt.FileHeader(number, position.seq + 1, entry.id)))
    sync_directory(path.parent)
    sync_directory(journals)
    catalog.commit(control.Position(entry.id, number, fmt.HEADER_BYTES, position.seq), sync=True)
