"""What a disk may hold after a power loss, made from a recording of everything that was done to it.

The model is that of POSIX and no more: a file's bytes and size are durable once the file was synced, an entry of a
directory once the directory was. Of what came later, each sector of a file may be as it was after any of the writes to
it, the size as after any change of it, and each name may lead to what it led to at any time, independently of all
others; but a name that was renamed over leads to the old or the new file, and a file that was renamed keeps at least
one of its names. A sector is written whole or not at all.
"""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from cowfs.formats.checksum import block_id

SECTORS = (512, 4096)
CORNERS = ("synced", "written", "names", "data")
"""``synced``: only that; ``written``: everything; ``names``: all names, data as synced; ``data``: the reverse."""

Image = dict[str, "bytes | int"]
"""What is on a disk: path -> bytes of a file, or mode of a directory or socket; directories before what is in them."""


def read_log(path: Path) -> Iterator[tuple[Any, ...]]:
    """The operations of a recording: ``(kind, inode, ...)``."""
    with path.open("rb") as file:
        while file.peek(1):
            yield marshal.load(file)


class File:
    """Bytes as synced, as they are, and what was done between."""

    def __init__(self, data: bytes = b"") -> None:
        self.synced = data
        self.now = bytearray(data)
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None)

    def write(self, offset: int, data: bytes) -> None:
        """Some bytes."""
        self.now.extend(bytes(max(offset - len(self.now), 0)))
        self.now[offset : offset + len(data)] = data
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        """Cut or extended."""
        del self.now[size:]
        self.now.extend(bytes(size - len(self.now)))
        self.pending.append((size, None))

    def sync(self) -> None:
        """From here on durable."""
        self.synced = bytes(self.now)
        self.pending.clear()

    def any_of(self, random: Random, sector: int) -> bytes:
        """One of the contents that it may have."""
        if not self.pending:
            return self.synced
        count = len(self.pending)
        match random.choice(("none", "all", "prefix", "writes", "sectors")):
            case "none":
                return self.synced
            case "all":
                return bytes(self.now)
            case "prefix":
                cut = random.randrange(count + 1)
                return self._mixed(lambda at: cut, cut, sector)
            case "writes":
                kept = [random.randrange(2) for _ in range(count)]
                last: dict[int, int] = {}
                for number, each in enumerate(self.pending):
                    if kept[number]:
                        last.update((at, number + 1) for at in _sectors(each, sector))
                cut = random.randrange(count + 1)
                return self._mixed(lambda at: last.get(at, 0), cut, sector)
        cuts: dict[int, int] = {}
        return self._mixed(
            lambda at: cuts.setdefault(at, random.randrange(count + 1)), random.randrange(count + 1), sector
        )

    def _mixed(self, cut: Any, size_cut: int, sector: int) -> bytes:
        """Sector ``i`` as after the first ``cut(i)`` changes, the size as after the first ``size_cut``."""
        data, size = bytearray(self.synced), len(self.synced)
        longest = max(len(data), *(at + len(new or b"") for at, new in self.pending))
        data.extend(bytes(longest - len(data)))
        for number, (at, new) in enumerate(self.pending):
            if number < size_cut:
                size = at if new is None else max(size, at + len(new))
            start, end = (at, longest) if new is None else (at, at + len(new))
            for each in range(start // sector, -(-end // sector)):
                if cut(each) > number:
                    low, high = max(start, each * sector), min(end, (each + 1) * sector)
                    data[low:high] = bytes(high - low) if new is None else new[low - start : high - start]
        return bytes(data[:size])


def _sectors(change: tuple[int, bytes | None], sector: int) -> Iterable[int]:
    at, new = change
    return () if new is None else range(at // sector, -(-(at + len(new)) // sector))


class Folder:
    """Names as synced, and every later change of each: (number of the operation, inode or None)."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.synced: dict[bytes, int] = {}
        self.now: dict[bytes, int] = {}
        self.pending: dict[bytes, list[tuple[int, int | None]]] = {}

    def change(self, number: int, name: bytes, inode: int | None) -> None:
        """A name leads elsewhere, or nowhere."""
        if inode is None:
            del self.now[name]
        else:
            self.now[name] = inode
        self.pending.setdefault(name, []).append((number, inode))

    def sync(self) -> None:
        """From here on durable."""
        self.synced = dict(self.now)
        self.pending.clear()

    def at(self, name: bytes, until: int) -> int | None:
        """Where a name leads, when what was done to it after operation ``until`` is lost."""
        found = self.synced.get(name)
        for number, inode in self.pending.get(name, ()):
            if number <= until:
                found = inode
        return found


class Disk:
    """Follows a recording by :meth:`apply`."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.folders: dict[int, Folder] = {1: Folder(0o700)}
        self._other: dict[int, int] = {}
        self._renames: list[tuple[int, int, bytes, int, bytes]] = []
        self._count = 0

    def apply(self, entry: tuple[Any, ...]) -> None:
        """Do one operation."""
        self._count += 1
        kind, inode, *rest = entry
        if kind == "write":
            self.files[inode].write(*rest)
        elif kind == "size":
            self.files[inode].resize(*rest)
        elif kind == "sync":
            (self.files.get(inode) or self.folders[inode]).sync()
            self._renames = [each for each in self._renames if self._is_open(each)]
        elif kind == "make":
            name, made, mode = rest
            if stat.S_ISDIR(mode):
                self.folders[made] = Folder(mode)
            elif stat.S_ISREG(mode) or not stat.S_IFMT(mode):
                self.files[made] = File()
            else:
                self._other[made] = mode
            self.folders[inode].change(self._count, name, made)
        elif kind == "link":
            self.folders[inode].change(self._count, *rest)
        elif kind == "remove":
            self.folders[inode].change(self._count, rest[0], None)
        else:
            assert kind == "rename", kind
            name, target, new_name = rest
            moved = self.folders[inode].now[name]
            self.folders[inode].change(self._count, name, None)
            self.folders[target].change(self._count, new_name, moved)
            self._renames.append((self._count, inode, name, target, new_name))

    def _is_open(self, rename: tuple[int, int, bytes, int, bytes]) -> bool:
        _, old, name, new, new_name = rename
        return name in self.folders[old].pending or new_name in self.folders[new].pending

    def corner(self, kind: str) -> Image:
        """The state of that name in :data:`CORNERS`."""
        until = self._count if kind in ("written", "names") else 0
        data = kind in ("written", "data")
        return self._image(
            lambda folder, name: until, lambda file: bytes(file.now) if data and file.pending else file.synced
        )

    def random(self, random: Random) -> Image:
        """Any state that is possible."""
        sector = random.choice(SECTORS)
        names = random.choice(("none", "all", "each", "each"))
        until: dict[tuple[int, bytes], int] = {}
        if names != "none":
            for number, folder in self.folders.items():
                for name, changes in folder.pending.items():
                    last = self._count if names == "all" else random.choice((0, *(each for each, _ in changes)))
                    until[number, name] = last
            self._keep_renamed(until)
        return self._image(lambda folder, name: until.get((folder, name), 0), lambda file: file.any_of(random, sector))

    def _keep_renamed(self, until: dict[tuple[int, bytes], int]) -> None:
        changed = True
        while changed:
            changed = False
            for number, old, name, new, new_name in self._renames:
                lost = until.get((old, name), 0) >= number > until.get((new, new_name), 0)
                if lost and new_name in self.folders[new].pending:
                    until[new, new_name] = number
                    changed = True

    def _image(self, until: Any, content: Any) -> Image:
        image: Image = {}
        todo = [("", 1)]
        while todo:
            above, number = todo.pop()
            folder = self.folders[number]
            names = sorted(folder.synced.keys() | folder.pending.keys()) if folder.pending else sorted(folder.synced)
            for name in names:
                inode = folder.at(name, until(number, name))
                if inode is None:
                    continue
                path = above + os.fsdecode(name)
                if inode in self.folders:
                    image[path] = self.folders[inode].mode
                    todo.append((path + "/", inode))
                elif inode in self.files:
                    image[path] = content(self.files[inode])
                else:
                    image[path] = self._other[inode]
        return image


def digest(image: Image) -> bytes:
    """The same for equal disks."""
    parts = (f"{path}\0{value if isinstance(value, int) else block_id(value).hex()}\0" for path, value in image.items())
    return block_id("".join(parts).encode(errors="surrogateescape"))


def write_image(image: Image, target: Path) -> None:
    """Make the directory ``target`` with what is on a disk."""
    target.mkdir()
    for path, value in image.items():
        if isinstance(value, bytes):
            with open(target / path, "wb", buffering=0) as file:
                file.write(value)
        elif stat.S_ISDIR(value):
            (target / path).mkdir(0o700)
        else:
            os.mknod(target / path, value)
