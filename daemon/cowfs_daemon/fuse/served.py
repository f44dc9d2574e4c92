"""What the transport knows about one mount: lookup counts, open counts, and a restore under way.

All of it belongs to the mount, not to a view: it outlives every restore. File handles are not kept;
requests carry the inode number and the open flags, and the handle number is always 0, so that another
process can go on serving the mount.

Changed only under the workspace's lock, except where a method says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from cowfs.geometry import ROOT_INO
from cowfs.owners import Owners
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.ahead import Ahead
from cowfs_daemon.fuse.backing import Backing
from cowfs_daemon.fuse.negotiate import SETXATTR_EXT, Negotiated

HANDED_LOOKUPS_MAX = 50_000
"""Inodes whose lookups are handed over one by one; with more, the next process does not know them all."""


class Handed(NamedTuple):
    """What the next process to serve a mount should know: see :class:`Served`. ``lookups`` None: too many.

    ``unsure``: there may be open files that nobody here knows of, since another process has died.
    """

    opens: dict[int, int]
    writers: dict[int, int]
    dead: tuple[int, ...]
    generations: dict[int, int]
    appending: tuple[int, ...]
    lookups: dict[int, int] | None
    unsure: bool = False
    listings: tuple[int, ...] | None = ()


class Served:
    """The state of one mount.

    ``lookups``: inode -> how often the kernel was told of it and has not forgotten it.
    ``opens``, ``writers``: inode -> open files, and those of them open for writing.
    ``complete``: False in a process that took over a mount and so does not know every lookup.
    ``valid``: seconds for which names and attributes given by LOOKUP may be cached: 0 during a restore.
    ``invalidating``: inodes whose pages the kernel has yet to drop; page-cache writes to them are
    discarded, and ``discarded`` collects where that happened.
    ``stale``: inodes whose size the kernel has not asked for since a restore changed them.
    ``dead``: directories that the kernel saw removed, and holds for who uses them still.
    ``generations``: of directories that were removed and are back: what tells the kernel to take a new inode for
    them, since it lets nobody list or change a directory that it saw removed. 0 for all others.
    ``listings``: directories of which an open descriptor may use the kernel's cache of the listing; None: nobody may,
    since another process has died that alone knew of such. ``withheld``: directories that who serves them opens just
    now: nobody may.
    ``ahead`` tells the kernel names before it asks, by ``list_ahead``: see :class:`.ahead.Ahead`.
    ``appending``: inodes that a restore changed while they were open for writing: there O_APPEND means
    our end of file, whatever offset the kernel believed in.
    ``sync_later(unique)`` makes the journal durable and answers that request, in another thread;
    ``flush_first(request, inode)`` has the pages written that mappings dirtied, then the request answered, in another
    thread, unless it says no; ``flushed`` is the request that is answered after that.
    ``backing``: files that the kernel reads by itself, on read-only mounts where that is possible.
    ``owners`` maps ids where an ordinary user serves; ``root`` is the stored id of who may do everything, or nobody's.
    ``unwritten`` counts writes that failed, which the kernel tells nobody of when they are of pages that it cached.
    ``refresh(inode)`` makes the kernel drop what it cached of an inode and ask for its size, likewise.
    """

    __slots__ = (
        "ahead", "appending", "backing", "complete", "connection_id", "dead", "discarded", "flush_first", "flushed",
        "generations", "invalidating", "listings",
        "lookups", "opens", "owners", "refresh", "root",
        "setxattr_ext", "stale", "sync_later", "unwritten", "valid", "withheld", "writers",
    )  # fmt: skip

    def __init__(
        self,
        connection_id: int,
        init: Negotiated,
        *,
        complete: bool,
        sync_later: Callable[[int], None],
        refresh: Callable[[int], None],
        flush_first: Callable[[bytearray, int], bool] = lambda request, ino: False,
        list_ahead: Callable[[int, int, int], bool] = lambda directory, cookie, names: False,
        owners: Owners | None = None,
    ) -> None:
        self.backing: Backing | None = None
        self.owners = owners
        self.root = 0 if owners is None else -1
        self.unwritten = 0
        self.connection_id = connection_id
        self.setxattr_ext = init.has(SETXATTR_EXT)
        self.complete = complete
        self.sync_later = sync_later
        self.flush_first = flush_first
        self.flushed = 0
        self.refresh = refresh
        self.valid = protocol.FOREVER
        self.lookups: dict[int, int] = {ROOT_INO: 1}  # Known from the start: no answer ever tells of it.
        self.opens: dict[int, int] = {}
        self.writers: dict[int, int] = {}
        self.invalidating: set[int] = set()
        self.discarded: set[int] = set()
        self.stale: set[int] = set()
        self.dead: set[int] = set()
        self.generations: dict[int, int] = {}
        self.appending: set[int] = set()
        self.listings: set[int] | None = set()
        self.withheld: set[int] = set()
        self.ahead = Ahead(list_ahead)

    def end(self) -> None:
        """Nothing is served any more: let go of who serves, who holds this, and with it the workspace's files."""
        self.sync_later = self.refresh = _nobody
        self.flush_first = _never
        self.ahead = Ahead(_not_now)

    def handed(self) -> Handed:
        """Everything that another process needs to go on; nothing is served any more."""
        known = self.lookups if self.complete and len(self.lookups) <= HANDED_LOOKUPS_MAX else None
        generations = dict(self.generations)
        listings = None if self.listings is None else tuple(self.listings)
        return Handed(
            self.opens, self.writers, tuple(self.dead), generations, tuple(self.appending), known, listings=listings
        )

    def hand_over(self, handed: Handed) -> None:
        """Go on where another process stopped."""
        self.opens, self.writers = dict(handed.opens), dict(handed.writers)
        self.dead, self.generations = set(handed.dead), dict(handed.generations)
        self.appending = set(handed.appending)
        self.listings = None if handed.listings is None else set(handed.listings)
        if handed.lookups is not None:
            self.lookups, self.complete = dict(handed.lookups), True

    def told(self, ino: int) -> None:
        """The kernel is about to be told of ``ino`` by an entry reply."""
        self.lookups[ino] = self.lookups.get(ino, 0) + 1

    def forget(self, ino: int, count: int) -> bool:
        """The kernel takes back ``count`` lookups; True when it no longer knows ``ino``."""
        left = self.lookups.get(ino, 0) - count
        if left > 0:
            self.lookups[ino] = left
            return False
        self.lookups.pop(ino, None)
        self.dead.discard(ino)
        self.generations.pop(ino, None)
        self.stale.discard(ino)
        # Nobody has open what the kernel forgot; after a take-over, how many had was not known.
        self.opens.pop(ino, None)
        self.writers.pop(ino, None)
        self.appending.discard(ino)
        self.listing_closed(ino)
        return True

    def may_cache_listing(self, directory: int) -> bool:
        """Whether who opens the directory may use the kernel's cache of the listing: if nobody else does."""
        if self.listings is None or directory in self.listings or directory in self.withheld:
            return False
        self.listings.add(directory)
        return True

    def listing_closed(self, directory: int) -> None:
        """Who was allowed to use the kernel's cache of the listing has closed the directory."""
        if self.listings is not None:
            self.listings.discard(directory)

    def removed(self, directory: int) -> None:
        """A directory was removed by the kernel, which lets nobody use that inode for new names ever again."""
        if directory in self.lookups:
            self.dead.add(directory)

    def opened(self, ino: int, writable: bool) -> None:
        """One more open file."""
        self.opens[ino] = self.opens.get(ino, 0) + 1
        if writable:
            self.writers[ino] = self.writers.get(ino, 0) + 1
        if ino in self.stale:
            if writable:
                self.appending.add(ino)
            self.refresh(ino)

    def released(self, ino: int, writable: bool) -> None:
        """One open file less."""
        _decrement(self.opens, ino)
        if writable and not _decrement(self.writers, ino):
            self.appending.discard(ino)


def _nobody(_: int) -> None:
    """Nothing is served any more."""


def _never(_: bytearray, __: int) -> bool:
    """Likewise."""
    return False


def _not_now(_: int, __: int, ___: int) -> bool:
    """Likewise."""
    return False


def _decrement(counts: dict[int, int], ino: int) -> int:
    left = counts.get(ino, 0) - 1
    if left > 0:
        counts[ino] = left
        return left
    counts.pop(ino, None)
    return 0


def is_writable(flags: int) -> bool:
    """Whether open flags allow writing."""
    return flags & os.O_ACCMODE != os.O_RDONLY
