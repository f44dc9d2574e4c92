"""What a disk would hold after a power loss: only what was synced, or also some of what was not.

Data counts as durable when its file was synced, a name when its directory was. The index is LMDB's own affair: it is
taken as it is, which is what its synced commits would leave.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from tests.support.faults import Call

VARIANTS = ("synced", "names-late", "holes")
"""``synced``: names as they are, data as synced. ``names-late``: names as synced, too. ``holes``: of each unsynced
end the first half is lost (zeros) and the second is kept."""


class Disk:
    """Follows the calls of :func:`tests.support.faults.intercepted` on the store at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._data: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        for folder, _, files in os.walk(root):
            for name in files:
                self._file_synced(os.stat(os.path.join(folder, name)).st_ino, Path(folder, name).read_bytes())
            self._folder_synced(Path(folder))

    def _file_synced(self, inode: int, data: bytes) -> None:
        self._data[inode] = data

    def _folder_synced(self, folder: Path) -> None:
        self._names[folder] = {each.name: each.stat().st_ino for each in folder.iterdir()}

    def done(self, name: str, real: Call, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Do the call, and note what it makes durable."""
        result = real(*args, **named)
        if name in ("fsync", "fdatasync"):
            status = os.fstat(args[0])
            place = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
            if stat.S_ISDIR(status.st_mode):
                self._folder_synced(place)
            else:
                with open(f"/proc/self/fd/{args[0]}", "rb") as file:
                    self._file_synced(status.st_ino, file.read())
        return result

    def lose_power(self, target: Path, variant: str) -> None:
        """Write to ``target`` what a new start would find."""
        target.mkdir()
        self._folder(self.root, target, variant)

    def _folder(self, folder: Path, target: Path, variant: str) -> None:
        actual = {each.name: each for each in folder.iterdir()}
        names = self._names.get(folder, {}) if variant == "names-late" else dict.fromkeys(actual, -1)
        for name, inode in names.items():
            place = folder / name
            if place in self._names or (name in actual and place.is_dir()):
                (target / name).mkdir()
                if name == "index":
                    shutil.copytree(place, target / name, dirs_exist_ok=True)
                elif place.is_dir():
                    self._folder(place, target / name, variant)
                continue
            (target / name).write_bytes(self._content(actual.get(name), inode, variant))

    def _content(self, place: Path | None, inode: int, variant: str) -> bytes:
        if inode < 0 and place is not None:
            inode = place.stat().st_ino
        synced = self._data.get(inode, b"")
        if variant != "holes" or place is None:
            return synced
        now = place.read_bytes()
        lost = (len(now) - len(synced) + 1) // 2 if now.startswith(synced) else 0
        return now[: len(synced)] + bytes(lost) + now[len(synced) + lost :] if lost else now
