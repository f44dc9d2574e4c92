"""A disk for tests: as large as they say."""

from __future__ import annotations

import errno
import os


class TestDisk:
    """``free`` and ``total`` bytes for writers; ``pieces``: how often something can be given up."""

    __test__ = False

    def __init__(self, free: int = 10 << 30, total: int = 20 << 30, pieces: int = 0) -> None:
        self.free, self.total, self.pieces = free, total, pieces
        self.left = 0
        self.looks = 0

    def space(self) -> tuple[int, int]:
        """See Disk.space."""
        return self.free, self.total

    def look(self, size: int) -> None:
        """See Disk.look."""
        self.looks += 1
        if self.free <= size:
            self.left = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left = min(1 << 20, self.free) - size

    def relieve(self, vital: bool) -> bool:
        """See Disk.relieve."""
        self.pieces -= 1
        return self.pieces >= 0
