"""Files of read-only mounts that the kernel reads by itself (FUSE passthrough): all mounts share one page cache.

What nobody can change is written out once, as a plain file named by its content, into a bounded folder of the store;
the kernel is then told at each open to read from there. Mounts of the same content, of whatever snapshot and in
whatever process, so share the pages and ask nobody for them.

The kernel wants one backing file an inode for as long as that is open anywhere. A process that takes a mount over must
know it: each use is written to a small log before the open is answered.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from pathlib import Path
from typing import Final

import blake3

from cowfs.errors import CowfsError
from cowfs.view.file import OverlayFile, StoredFile
from cowfs.view.inode import Inode

log = logging.getLogger("cowfs.fuse")

_OPEN: Final = 0x4010E501  # FUSE_DEV_IOC_BACKING_OPEN, linux/fuse.h
_CLOSE: Final = 0x4004E502  # FUSE_DEV_IOC_BACKING_CLOSE
_MAP = struct.Struct("<iIQ")
_ENTRY = struct.Struct("<Qi")
_PIECE: Final = 1 << 20
INLINE_MAX: Final = 4 << 20
"""Bytes of a file that is written out while its opener, and everybody else in that mount, waits: 4 ms or so."""

LIMIT_BYTES: Final = 1 << 30
"""Of all files written out; those used least recently go first."""

_ROOM_SHARE: Final = 10
"""The disk must have so many times the limit free."""


class Backing:
    """Of one mount. ``directory``: where files are written out; ``fd``: the mount's /dev/fuse; ``name``: of its log,
    the same in every process that serves it. ``complete``: no other process served it before."""

    def __init__(self, fd: int, directory: Path, name: str, *, complete: bool, limit_bytes: int = LIMIT_BYTES) -> None:
        self._fd = fd
        self._directory = directory
        self._limit = limit_bytes
        self._complete = complete
        directory.mkdir(mode=0o700, exist_ok=True)
        self._log_path = directory / f"log-{name}"
        self._ids: dict[int, int] = {} if complete else self._known()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(self._log_path, flags | (os.O_TRUNC if complete else 0), 0o600)
        self._bytes = -1

    def _known(self) -> dict[int, int]:
        try:
            data = self._log_path.read_bytes()
        except FileNotFoundError:
            return {}
        entries = dict(_ENTRY.iter_unpack(data[: len(data) - len(data) % _ENTRY.size]))
        return {ino: number for ino, number in entries.items() if number}

    def opened(self, inode: Inode, opens: int) -> int:
        """The backing id for one more open of an inode that was open ``opens`` times; 0: it is read through us."""
        number = self._ids.get(inode.ino, 0)
        if number:
            return number
        if opens or not self._complete or not inode.size:
            return 0  # whoever has it open reads through us, or may do so
        data = inode.data
        if isinstance(data, OverlayFile) and data.settled is not None:
            data = data.settled
        if not isinstance(data, StoredFile):
            return 0
        try:
            number = self._register(data)
            if number:
                os.write(self._log, _ENTRY.pack(inode.ino, number))
                self._ids[inode.ino] = number
        except (OSError, CowfsError) as error:
            log.warning("inode %d is read without passthrough: %s", inode.ino, error)
            return 0
        return number

    def released(self, ino: int) -> None:
        """Nobody has it open any more, unless that happened in a process before: then it stays until the unmount."""
        number = self._ids.pop(ino, 0) if self._complete else 0
        if number:
            with contextlib.suppress(OSError):
                os.write(self._log, _ENTRY.pack(ino, 0))
                fcntl.ioctl(self._fd, _CLOSE, struct.pack("<I", number))

    def close(self, *, gone: bool) -> None:
        """Let go of it; ``gone``: of the mount too."""
        os.close(self._log)
        if gone:
            self._log_path.unlink(missing_ok=True)

    def _register(self, data: StoredFile) -> int:
        path = (
            self._directory / blake3.blake3(b"%d %d " % (data.content.kind, data.size) + data.content.data).hexdigest()
        )
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.utime(fd)
        except FileNotFoundError:
            if data.size > INLINE_MAX or not self._make_room(data.size):
                return 0
            self._write_out(path, data)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return int(fcntl.ioctl(self._fd, _OPEN, bytearray(_MAP.pack(fd, 0, 0)), True))
        finally:
            os.close(fd)

    def _write_out(self, path: Path, data: StoredFile) -> None:
        new = path.with_name(f"new-{os.getpid()}-{path.name}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            for at in range(0, data.size, _PIECE):
                os.write(fd, data.read(at, min(_PIECE, data.size - at)))
            os.rename(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self._bytes += data.size

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes may be written out; the files used least recently go for them."""
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < self._limit * _ROOM_SHARE:
            return False
        if 0 <= self._bytes <= self._limit - size:
            return True
        files = []
        for entry in os.scandir(self._directory):
            if len(entry.name) == 2 * blake3.blake3.digest_size:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    files.append((found.st_mtime_ns, found.st_size, entry.path))
        self._bytes = sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if self._bytes <= self._limit - max(size, self._limit // 8):
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._bytes -= length
        return True
