"""What a repair did, and where it put what it took away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

LOST_MAX = 50
"""Things that one step names as lost at most; one more line counts the others."""


class Repaired(NamedTuple):
    """One thing done. ``where``: a path within the store; ``quarantine``: where what was there is kept, or nothing.

    ``lost``: what of the user's is lost by the damage, a line each.
    """

    where: str
    what: str
    quarantine: str = ""
    lost: tuple[str, ...] = ()

    def shape(self) -> dict[str, Any]:
        """As ``--json`` says it."""
        return {**self._asdict(), "lost": list(self.lost)}


def bounded(lost: list[str]) -> tuple[str, ...]:
    """So many lines that they can be shown."""
    if len(lost) <= LOST_MAX:
        return tuple(lost)
    return (*lost[:LOST_MAX], f"and {len(lost) - LOST_MAX} more")


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


def write_synced(path: Path, data: bytes) -> None:
    """A file with this content, synced; its name is not."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
