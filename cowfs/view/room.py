"""What a workspace may still take: of its quota, and of the disk.

Everything that makes a workspace larger asks :meth:`Room.take` before it is journaled. What makes it smaller, and what
changes no size (a rename, a mode), never asks: it must go on when there is no room.

What counts: every inode of the live state, files without a name included, and 512 times their ``st_blocks``. Names,
extended attributes and journals do not; neither do snapshots.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from cowfs.geometry import PAGE, SECTOR
from cowfs.view.inode import Statfs

if TYPE_CHECKING:
    from cowfs.view.state import State

UNLIMITED: Final = 1 << 62


class Quota(NamedTuple):
    """At most so many bytes and inodes in a workspace; 0: no limit."""

    bytes: int = 0
    inodes: int = 0


NO_QUOTA: Final = Quota()


class Disk(Protocol):
    """The filesystem that holds the store, as far as writers may use it.

    ``left``: bytes that may still be taken before it is looked at again. Threads of several workspaces take from it
    without a lock: an update that is lost lets one write more through.
    """

    left: int

    def space(self) -> tuple[int, int]:
        """(free, total) bytes for writers."""
        ...

    def look(self, size: int) -> None:
        """Look whether ``size`` bytes may be taken, and set ``left``. Raises OSError (ENOSPC)."""
        ...

    def relieve(self, vital: bool) -> bool:
        """The disk is full: give back something of what was kept for this. False when there is nothing left.

        ``vital``: for a verb of a workspace's owner, not for a program in it.
        """
        ...


class Room:
    """One workspace's. Used under the workspace's lock, except :meth:`limit`."""

    __slots__ = ("disk", "inodes_max", "sectors_max")

    def __init__(self, disk: Disk, quota: Quota = NO_QUOTA) -> None:
        self.disk = disk
        self.limit(quota)

    def limit(self, quota: Quota) -> None:
        """From now on these limits hold; what is over them already stays."""
        self.sectors_max = quota.bytes // SECTOR or UNLIMITED
        self.inodes_max = quota.inodes or UNLIMITED

    def take(self, state: State, sectors: int, inodes: int, size: int) -> None:
        """Something is to grow by ``sectors`` and ``inodes``, with ``size`` bytes of journal.

        Raises OSError: EDQUOT beyond the quota, ENOSPC when the disk has nothing left for writers.
        """
        if sectors and state.sectors + sectors > self.sectors_max:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        if inodes and state.files + len(state.orphans) + inodes > self.inodes_max:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        disk = self.disk
        disk.left -= size
        if disk.left < 0:
            disk.look(size)

    def statfs(self, state: State) -> Statfs:
        """What there is and what is free, as far as the quota and the disk go."""
        free, total = self.disk.space()
        used = state.sectors * SECTOR
        if self.sectors_max != UNLIMITED:
            limit = self.sectors_max * SECTOR
            free = min(free, max(limit - used, 0))
            total = used + free if used >= limit else min(limit, used + free)
        inodes = state.files + len(state.orphans)
        inodes_free = free // PAGE
        if self.inodes_max != UNLIMITED:
            inodes_free = min(inodes_free, max(self.inodes_max - inodes, 0))
        return Statfs(PAGE, total // PAGE, free // PAGE, inodes + inodes_free, inodes_free)
