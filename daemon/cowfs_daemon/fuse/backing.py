"""Files of a read-only mount that the kernel reads by itself (FUSE passthrough): all mounts share one page cache.

What nobody can change is written out once (:mod:`.written_out`); the kernel is then told at each open to read from
there. Mounts of the same content, of whatever snapshot and in whatever process, so share the pages and ask nobody.

The kernel wants one backing file an inode for as long as that is open anywhere. A process that takes a mount over must
know it: each use is written to a small log before the open is answered.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from typing import Final

from cowfs.errors import CowfsError
from cowfs.view.file import OverlayFile, StoredFile
from cowfs.view.inode import Inode
from cowfs_daemon.fuse.written_out import WrittenOut

log = logging.getLogger("cowfs.fuse")

_OPEN: Final = 0x4010E501  # FUSE_DEV_IOC_BACKING_OPEN, linux/fuse.h
_CLOSE: Final = 0x4004E502  # FUSE_DEV_IOC_BACKING_CLOSE
_MAP = struct.Struct("<iIQ")
_ENTRY = struct.Struct("<Qi")
NOTED_MAX: Final = 50_000
"""Entries of a log, besides two for each file that is open, before it is written anew."""


class Backing:
    """Of one mount. ``fd``: its /dev/fuse; ``name``: of its log, the same in every process that serves it.

    ``complete``: no other process served it before.
    """

    def __init__(self, fd: int, written: WrittenOut, name: str, *, complete: bool) -> None:
        self._fd = fd
        self._written = written
        self._complete = complete
        self._log_path = written.make() / f"log-{name}"
        self._ids: dict[int, int] = {} if complete else self._known()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(self._log_path, flags | (os.O_TRUNC if complete else 0), 0o600)
        self._noted = 0

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
                self._note(inode.ino, number)
                self._ids[inode.ino] = number
        except (OSError, CowfsError) as error:
            log.warning("inode %d is read without passthrough: %s", inode.ino, error)
            return 0
        return number

    def _register(self, data: StoredFile) -> int:
        fd = self._written.open(data)
        if fd < 0:
            return 0
        try:
            return int(fcntl.ioctl(self._fd, _OPEN, bytearray(_MAP.pack(fd, 0, 0)), True))
        finally:
            os.close(fd)

    def released(self, ino: int) -> None:
        """Nobody has it open any more, unless that happened in a process before: then it stays until the unmount."""
        number = self._ids.pop(ino, 0) if self._complete else 0
        if number:
            with contextlib.suppress(OSError):
                self._note(ino, 0)
                fcntl.ioctl(self._fd, _CLOSE, struct.pack("<I", number))
                if self._noted > NOTED_MAX + 2 * len(self._ids):
                    self._shorten()

    def _note(self, ino: int, number: int) -> None:
        os.write(self._log, _ENTRY.pack(ino, number))
        self._noted += 1

    def _shorten(self) -> None:
        """Write the log anew, with what is in use alone."""
        new = self._log_path.with_name(f"new-{self._log_path.name}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"".join(_ENTRY.pack(*entry) for entry in self._ids.items()))
            os.rename(new, self._log_path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._log)
        self._log, self._noted = fd, len(self._ids)

    def close(self, *, gone: bool) -> None:
        """Let go of it; ``gone``: of the mount too."""
        os.close(self._log)
        if gone:
            self._log_path.unlink(missing_ok=True)
