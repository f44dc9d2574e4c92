"""All steps of a repair, in order."""

from __future__ import annotations

from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.durable import sync_directory
from cowfs.quarantine import Quarantine
from cowfs.repair.control import repair_control
from cowfs.repair.journals import repair_journals
from cowfs.repair.report import Repaired
from cowfs.repair.segments import repair_segments
from cowfs.store import PARTS, StoreDirectory


def repair_store(path: Path) -> list[Repaired]:
    """Mend the store at ``path``; what was done. Doing it again, also after being cut off, does no harm.

    Raises NotFound, Busy (somebody has it open), Corrupt (superblock or control log are lost: nothing was changed),
    NoSpace.
    """
    store = StoreDirectory.look(path)
    owner = store.lock()
    quarantine = Quarantine(store.path)
    try:
        done = []
        for part in PARTS:
            if not (store.path / part).is_dir():
                (store.path / part).mkdir(mode=0o700)
                sync_directory(store.path)
                done.append(Repaired(part, "the directory was missing: an empty one was made"))
        done += repair_control(store.control, store.salt, store.journals, quarantine)
        done += repair_segments(store, quarantine)
        catalog = Catalog.open(store.control)
        try:
            done += repair_journals(catalog, store.journals, quarantine)
        finally:
            catalog.close()
        return done
    finally:
        store.unlock(owner)
