"""What a store puts away instead of deleting it: ``STORE/quarantine``, each thing under its old path."""

from __future__ import annotations

import os
from pathlib import Path

from cowfs.durable import sync_directory, write_synced


class Quarantine:
    """The directory of a store where unreadable things are kept. It is made when it is needed."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.path = store / "quarantine"

    def name(self, path: Path) -> str:
        """A path within the store, as reports say it."""
        return str(path.relative_to(self._store))

    def move(self, path: Path) -> str:
        """Move a file or directory here, durably; its new path within the store."""
        target = self._free(path)
        os.rename(path, target)
        sync_directory(path.parent)
        sync_directory(target.parent)
        return self.name(target)

    def copy(self, path: Path) -> str:
        """Keep what is in the file ``path`` now, durably; the copy's path within the store.

        A copy that is there already, from a repair that was cut off, is not made again.
        """
        data = path.read_bytes()
        last = self._last(path)
        if last is not None and last.read_bytes() == data:
            return self.name(last)
        target = self._free(path)
        scratch = target.with_name(target.name + ".part")
        write_synced(scratch, data)
        os.rename(scratch, target)
        sync_directory(target.parent)
        return self.name(target)

    def _place(self, path: Path, number: int) -> Path:
        target = self.path / path.relative_to(self._store)
        return target if not number else target.with_name(f"{target.name}.{number}")

    def _last(self, path: Path) -> Path | None:
        last, number = None, 0
        while (target := self._place(path, number)).exists():
            last, number = target, number + 1
        return last

    def _free(self, path: Path) -> Path:
        number = 0
        while (target := self._place(path, number)).exists():
            number += 1
        missing = [each for each in (target.parent, *target.parent.parents) if not each.exists()]
        for directory in reversed(missing):
            os.mkdir(directory, 0o700)
            sync_directory(directory.parent)
        return target
