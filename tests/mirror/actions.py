"""Random changes of a directory tree, chosen from what is there and made alike in a workspace and its plain copy."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

FILES_MAX = 120
LARGE_BYTES = 700_000
SPARSE_OFFSET = 40_000_000

Action = Callable[[Path], None]


@dataclass(frozen=True)
class Found:
    """Paths relative to a root: directories (the root, as an empty path, first), regular files, everything else."""

    directories: list[str]
    files: list[str]
    others: list[str]

    @property
    def count(self) -> int:
        """How many there are but for the root."""
        return len(self.directories) - 1 + len(self.files) + len(self.others)


def look(root: Path) -> Found:
    """What is below ``root``."""
    found = Found([""], [], [])
    for above, directories, names in os.walk(root):
        place = os.path.relpath(above, root)
        for name in sorted(directories + names):
            path = name if place == "." else f"{place}/{name}"
            mode = os.lstat(root / path).st_mode
            kind = found.directories if stat.S_ISDIR(mode) else found.files if stat.S_ISREG(mode) else found.others
            kind.append(path)
    return found


class Actions:
    """Chooses changes. ``numbers`` makes names that were never used before."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._number = 0

    def choose(self, found: Found) -> tuple[str, Action]:
        """(its name, a change that can be made to any tree that looks like ``found``)."""
        if not found.files or (found.count < 15 and self._random.randrange(2)):
            return self._adding(found)
        if found.count > FILES_MAX:
            return self._removing(found)
        chosen = self._random.choices((self._adding, self._changing, self._moving, self._removing), (4, 6, 2, 1))[0]
        return chosen(found)

    def _new(self, found: Found) -> str:
        self._number += 1
        name = f"n{self._number}" if self._random.randrange(20) else f"n\udcff{self._number}"
        above = self._random.choice(found.directories)
        return f"{above}/{name}" if above and above.count("/") < 6 else name

    def _data(self) -> bytes:
        kind = self._random.randrange(10)
        if kind == 0:
            return self._random.randbytes(self._random.randrange(LARGE_BYTES))
        if kind == 1:
            return b"the same in many files " * self._random.choice((5000, 20_000))
        return self._random.randbytes(self._random.choice((0, 1, 50, 1000, 4096, 9000, 131_072)))

    def _adding(self, found: Found) -> tuple[str, Action]:
        new, random = self._new(found), self._random
        old = random.choice(found.files) if found.files else None
        data = self._data()
        choices: list[tuple[str, Action]] = [
            ("create", lambda root: write_new(root / new, data)),
            ("create", lambda root: write_new(root / new, data)),
            ("mkdir", lambda root: os.mkdir(root / new, 0o755)),
            ("symlink", lambda root: os.symlink(f"../to/{new}", root / new)),
            ("fifo", lambda root: os.mkfifo(root / new)),
            ("sparse", lambda root: pwrite(root / new, SPARSE_OFFSET, data[:5000], os.O_CREAT)),
            ("unnamed", lambda root: link_unnamed(root, new, data)),
        ]
        if old is not None:
            choices += [("link", lambda root: os.link(root / old, root / new))]
            choices += [("copy", lambda root: copy_range(root / old, root / new))]
        return random.choice(choices)

    def _changing(self, found: Found) -> tuple[str, Action]:
        random = self._random
        file, data = random.choice(found.files), self._data()
        anything = random.choice(found.files + found.directories)
        offset, size = random.randrange(300_000), random.randrange(200_000)
        ns, value = random.randrange(1 << 60), random.randbytes(random.choice((0, 8, 3000)))
        mode, owner = random.choice((0o600, 0o644, 0o755, 0o4711, 0o2755)), random.randrange(4)
        choices: list[tuple[str, Action]] = [
            ("append", lambda root: pwrite(root / file, 0, data, os.O_APPEND)),
            ("pwrite", lambda root: pwrite(root / file, offset, data, 0)),
            ("pwrite", lambda root: pwrite(root / file, offset // 131_072 * 131_072, data, 0)),
            ("rewrite", lambda root: pwrite(root / file, 0, data, os.O_TRUNC)),
            ("truncate", lambda root: os.truncate(root / file, size)),
            ("mapped", lambda root: write_mapped(root / file, data)),
            ("chmod", lambda root: os.chmod(root / anything, mode)),
            ("chown", lambda root: os.chown(root / file, owner, owner)),
            ("utime", lambda root: os.utime(root / anything, ns=(ns, ns))),
            ("xattr", lambda root: os.setxattr(root / anything, b"user.note", value)),
            ("unxattr", lambda root: os.removexattr(root / anything, b"user.note")),
        ]
        return random.choice(choices)

    def _moving(self, found: Found) -> tuple[str, Action]:
        new, random = self._new(found), self._random
        anything = random.choice(found.files + found.others + found.directories[1:])
        one, other = random.choice(found.files), random.choice(found.files)
        choices: list[tuple[str, Action]] = [
            ("rename", lambda root: os.rename(root / anything, root / new)),
            ("replace", lambda root: os.rename(root / one, root / other)),
            ("save", lambda root: save(root / one, root / new)),
        ]
        return random.choice(choices)

    def _removing(self, found: Found) -> tuple[str, Action]:
        random = self._random
        if len(found.directories) > 1 and not random.randrange(4):
            directory = random.choice(found.directories[1:])
            return "rmtree", lambda root: shutil.rmtree(root / directory)
        victims = random.sample(found.files + found.others, min(len(found.files + found.others), 5))
        return "unlink", lambda root: unlink_all(root, victims)


def unlink_all(root: Path, paths: list[str]) -> None:
    """Remove files."""
    for path in paths:
        os.unlink(root / path)


def write_new(path: Path, data: bytes) -> None:
    """A new file."""
    pwrite(path, 0, data, os.O_CREAT | os.O_EXCL)


def pwrite(path: Path, offset: int, data: bytes, flags: int) -> None:
    """Write ``data`` in a file opened with more ``flags``."""
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        while data:
            done = os.write(fd, data) if flags & os.O_APPEND else os.pwrite(fd, data, offset)
            data, offset = data[done:], offset + done
    finally:
        os.close(fd)


def write_mapped(path: Path, data: bytes) -> None:
    """Change a file through a shared mapping of what it has."""
    fd = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        if size:
            with mmap.mmap(fd, min(size, 1 << 20)) as pages:
                part = data[: len(pages)]
                pages[len(pages) - len(part) :] = part
    finally:
        os.close(fd)


def link_unnamed(root: Path, new: str, data: bytes) -> None:
    """Write a file that has no name, then give it one."""
    fd = os.open((root / new).parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    try:
        os.write(fd, data[:9000])
        os.link(f"/proc/self/fd/{fd}", root / new, follow_symlinks=True)
    finally:
        os.close(fd)


def copy_range(source: Path, target: Path) -> None:
    """Copy a file within the kernel."""
    with open(source, "rb") as reading, open(target, "xb") as writing:
        while os.copy_file_range(reading.fileno(), writing.fileno(), 1 << 20):
            pass


def save(path: Path, new: Path) -> None:
    """What editors do: a new file takes the place of the old one."""
    data = path.read_bytes()
    write_new(new, data[::-1])
    os.rename(new, path)
