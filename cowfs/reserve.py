"""What is kept of the disk so that a full one can be emptied again.

Two things, together :func:`reserve_bytes`: a threshold, below which writers get ENOSPC while verbs, settling and
garbage collection go on; and a quarter of it as a file, ``STORE/reserve``, allocated and never written, which is given
up piece by piece when the disk is full to the last block all the same, because other programs write to it, too. Half of
that file is for what programs do in workspaces to make room (unlink, truncate), the other half for verbs alone, so that
no program can use up what the owner of the store needs.

Nothing is given up in advance for work that can be done again (:meth:`Reserve.enough`): a guess of what an index
transaction takes once gave a small disk's whole file away. Settling takes nothing of it and does not even begin without
room, or it would eat what a verb was just given.

Every process of the store may give it up; only the owner allocates it again. A store without the file works.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cowfs.errors import NoSpace

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)

SEGMENTS_BYTES = 256 << 20
"""Two segments."""

DISK_SHARE = 8
"""Of a small disk, at most one part in so many is kept."""

FILE_SHARE = 4
"""One part in so many of the reserve is a file."""

PIECE_BYTES = 1 << 20
"""What is given up of the file at a time, at most."""

PIECE_BYTES_MIN = 64 << 10
"""What is given up at a time of a small disk's: one part in :data:`PIECES` would be less."""

PIECES = 16

INDEX_BYTES = 256 << 10
"""About what a small transaction of the index writes."""

LOOK_BYTES = 1 << 20
"""A process looks at the disk again when it has written so much: how far it overshoots at most, and one write."""


def reserve_bytes(total: int) -> int:
    """How much of a disk of ``total`` bytes is kept: two segments, less on a small one."""
    return min(SEGMENTS_BYTES, total // DISK_SHARE)


def reserve_file_bytes(total: int) -> int:
    """How much of that is the file."""
    return reserve_bytes(total) // FILE_SHARE


def piece_bytes(total: int) -> int:
    """How much of the file is given up at a time, on a disk of ``total`` bytes."""
    return min(max(reserve_file_bytes(total) // PIECES, PIECE_BYTES_MIN), PIECE_BYTES)


class Reserve:
    """Of the store in directory ``store``. A :class:`cowfs.view.room.Disk`; thread-safe."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path = store / "reserve"
        self.left = 0

    def held(self) -> int:
        """Bytes allocated in the file."""
        try:
            return os.stat(self._path).st_blocks * 512
        except OSError:
            return 0

    def space(self) -> tuple[int, int]:
        """(free, total) bytes of the disk that writers in workspaces may use."""
        found = os.statvfs(self._store)
        total = found.f_blocks * found.f_frsize
        kept = reserve_bytes(total)
        return max(found.f_bavail * found.f_frsize + self.held() - kept, 0), total - kept

    def look(self, size: int) -> None:
        """See Disk.look."""
        free, _ = self.space()
        if free <= size:
            self.left = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left = min(LOOK_BYTES, free) - size

    def relieve(self, vital: bool) -> bool:
        """See Disk.relieve."""
        self.left = 0  # what is given up is not for writers: they look first
        return self._give_up(vital)

    def enough(self, work: Callable[[], T]) -> T:
        """Do ``work``; as long as it fails on the full disk, give up a piece for it and do it again.

        Raises NoSpace or OSError (ENOSPC) of the last attempt when nothing is left, and whatever else it raises.
        """
        while True:
            try:
                return work()
            except (NoSpace, OSError) as error:
                if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if not self.relieve(vital=True):
                    raise

    def refuse_without(self, size: int) -> None:
        """Before settling, which can wait: refuse it unless about ``size`` bytes are free. Raises NoSpace."""
        size += INDEX_BYTES
        found = os.statvfs(self._store)
        free = found.f_bavail * found.f_frsize
        if free < size:
            raise NoSpace(f"{size} bytes are needed for settling, {free} are free", hint="Free some space.")

    def _give_up(self, vital: bool) -> bool:
        found = os.statvfs(self._store)
        total = found.f_blocks * found.f_frsize
        floor = 0 if vital else reserve_file_bytes(total) // 2
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            held = os.fstat(fd).st_size
            if held <= floor or not self.held():
                return False
            os.ftruncate(fd, max(floor, held - piece_bytes(total)))
            with suppress(OSError):  # a journaling filesystem hands freed blocks out again after a commit
                os.fsync(fd)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def refill(self) -> None:
        """Allocate the file again, as far as half of what is free goes. The owner's alone; never raises."""
        found = os.statvfs(self._store)
        total = found.f_blocks * found.f_frsize
        wanted = reserve_file_bytes(total)
        held = self.held()
        target = min(wanted, held + found.f_bavail * found.f_frsize // 2)
        if target < held + min(piece_bytes(total), wanted - held) or held >= wanted:
            return
        with suppress(OSError):  # no filesystem for this, or filled meanwhile: the threshold remains
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # Not posix_fallocate: where the filesystem cannot allocate, that writes every block.
                if _libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(target)):
                    raise OSError(ctypes.get_errno(), "fallocate")
            finally:
                os.close(fd)
