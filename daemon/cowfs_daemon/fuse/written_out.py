"""Contents of stored files as plain files, for the kernel to read from: a bounded folder, shared by all processes.

A file is named by its content, so it is right for whoever needs that content. Nothing is synced: what a power loss may
have left half written lies below the number of a boot that is over, and goes when the next one makes its folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path
from typing import Final, NamedTuple

import blake3

from cowfs.view.file import StoredFile

LIMIT_BYTES: Final = 1 << 30
"""Of the disk, for all files together, more or less: each process looks at what others have added once in a sixteenth
of it."""

INLINE_MAX: Final = 4 << 20
"""Bytes of a file that is written out while its opener, and everybody else in that mount, waits."""

_ROOM_SHARE: Final = 10
"""The disk must have so many times the limit free."""

_SLACK: Final = 16
"""One part in so many of the limit is made free at once: to find what goes costs a look at every file."""

_PIECE: Final = 1 << 20
_UNIT_BYTES: Final = 4096
"""What disks allocate at least: many small files must not take more than the limit."""

_NAME_LENGTH: Final = 2 * blake3.blake3.digest_size


def this_boot() -> str:
    """Another text at each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class WrittenStatistics(NamedTuple):
    """How often a file was there already, and how often it was not."""

    hits: int
    misses: int


class WrittenOut:
    """The folder below ``directory``; ``path`` is that of this boot. Thread-safe."""

    def __init__(self, directory: Path, *, limit_bytes: int = LIMIT_BYTES, boot: str | None = None) -> None:
        self.path = directory / (boot or this_boot())
        self._directory = directory
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._bytes = self._added = limit_bytes  # not looked yet
        self._hits = self._misses = 0

    def statistics(self) -> WrittenStatistics:
        """Counts of this process."""
        return WrittenStatistics(self._hits, self._misses)

    def open(self, data: StoredFile) -> int:
        """A descriptor of the file with that content, written out if need be; -1: it is too large, or there is no room.

        Raises OSError, and Corrupt when the content is damaged.
        """
        content = b"%d %d " % (data.content.kind, data.size) + data.content.data
        path = self.path / blake3.blake3(content).hexdigest()
        fd = _there(path)
        if fd >= 0:
            self._hits += 1
            return fd
        self._misses += 1
        with self._lock:
            fd = _there(path)  # another mount may have waited for the same
            if fd >= 0:
                return fd
            if data.size > INLINE_MAX or not self._make_room(_allocated(data.size)):
                return -1
            self._write(path, data)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def make(self) -> Path:
        """Make the folder, and remove those of earlier boots. Its path."""
        if not self.path.is_dir():
            if self._directory.is_dir():
                shutil.rmtree(self._directory)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        return self.path

    def _write(self, path: Path, data: StoredFile) -> None:
        new = path.with_name(f"new-{os.getpid()}-{threading.get_ident()}")
        try:
            with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o400)) as file:
                for at in range(0, data.size, _PIECE):
                    file.write(data.read(at, min(_PIECE, data.size - at)))
            os.rename(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        self._bytes += _allocated(data.size)
        self._added += _allocated(data.size)

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes may be added; the files used least recently go for them."""
        disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < self._limit * _ROOM_SHARE:
            return False
        if self._added < self._limit // _SLACK and self._bytes + size <= self._limit:
            return True
        files = []
        for entry in os.scandir(self.path):
            if len(entry.name) == _NAME_LENGTH:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    files.append((found.st_mtime_ns, _allocated(found.st_size), entry.path))
        self._bytes, self._added = sum(length for _, length, _ in files), 0
        for _, length, name in sorted(files):
            if self._bytes + size <= self._limit - self._limit // _SLACK:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            self._bytes -= length
        return self._bytes + size <= self._limit


def _there(path: Path) -> int:
    """A descriptor of a file that is written out; -1: there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    with contextlib.suppress(OSError):
        os.utime(fd)  # by which those used least recently are told
    return fd


def _allocated(size: int) -> int:
    """What a file of so many bytes takes."""
    return -(-size // _UNIT_BYTES) * _UNIT_BYTES
