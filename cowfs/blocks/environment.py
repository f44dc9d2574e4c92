"""LMDB on a disk that may be full: opening an environment, and telling a full disk from a damaged file."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

READERS_MAX = 1022
LOCK_FILE = "lock.mdb"

_LOCK_BYTES = 64 * READERS_MAX + 4096
"""The table of readers (64 bytes each) and its head."""

_FULL_BYTES = 1 << 20
"""A disk with less free than this can have cut a write short."""


def allocate_lock(directory: Path) -> None:
    """Give the table of readers its blocks before LMDB maps it. Raises OSError (ENOSPC).

    LMDB makes the file sparse, and touching a hole of a mapped file on a full disk is a SIGBUS.
    """
    fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < _LOCK_BYTES:
            os.posix_fallocate(fd, 0, _LOCK_BYTES)
    finally:
        os.close(fd)


def is_full(error: Exception, directory: Path) -> bool:
    """Whether LMDB failed because the disk, or the map, is full. It reports a write that was cut short as EIO."""
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or "No space" in str(error):
        return True
    if "Input/output error" not in str(error):
        return False
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize < _FULL_BYTES
