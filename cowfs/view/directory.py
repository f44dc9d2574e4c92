"""Directory entries: at rest (a radix tree), or as changes over an older directory.

The same invariants as in :mod:`cowfs.view.file`: stored ones are immutable, an overlay changes only in
its own delta, and a frozen overlay may be replaced by an equal stored one at any moment.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import decode_dirent
from cowfs.tree import names, radix
from cowfs.view.inode import Owner


class Entry(NamedTuple):
    """One entry: ``cookie`` = directory key << 8 | discriminator; ``kind`` = ``mode >> 12``."""

    cookie: int
    ino: int
    kind: int
    name: bytes


class StoredDirectory:
    """A directory at rest."""

    __slots__ = ("blocks", "key_bits", "pointer")

    def __init__(self, blocks: BlockSource, pointer: bytes, key_bits: int) -> None:
        self.blocks = blocks
        self.pointer = pointer
        self.key_bits = key_bits

    def lookup(self, name: bytes) -> Entry | None:
        """The entry called ``name``, or None."""
        if not self.pointer:
            return None
        found = names.find_name(self.blocks, self.pointer, names.directory_key(name, self.key_bits), name)
        return None if found is None else Entry(found.cookie, found.ino, found.kind, name)

    def at(self, cookie: int) -> Entry | None:
        """The entry with this cookie, or None."""
        value = radix.lookup(self.blocks, self.pointer, cookie) if self.pointer else None
        if value is None:
            return None
        name, entry = decode_dirent(cookie, value)
        return Entry(cookie, entry.ino, entry.kind, name)

    def entries(self, after: int) -> Iterator[Entry]:
        """Entries with a cookie greater than ``after``, in cookie order."""
        for cookie, value in radix.scan(self.blocks, self.pointer, after + 1):
            name, entry = decode_dirent(cookie, value)
            yield Entry(cookie, entry.ino, entry.kind, name)

    def __len__(self) -> int:
        return radix.count(self.pointer)


class _Map:
    """Changes over ``base``: by name and by cookie; None is a removed entry."""

    __slots__ = ("base", "by_cookie", "by_name", "listing")

    def __init__(self, base: Directory | None) -> None:
        self.base = base
        self.by_name: dict[bytes, Entry | None] = {}
        self.by_cookie: dict[int, Entry | None] = {}
        self.listing: list[int] | None = None


class OverlayDirectory:
    """A directory in motion. ``len()`` is its number of entries without ``.`` and ``..``."""

    __slots__ = ("count", "key_bits", "map", "owner", "settled")

    def __init__(self, owner: Owner, base: Directory | None, key_bits: int) -> None:
        self.owner = owner
        self.key_bits = key_bits
        self.map: _Map | None = _Map(base)
        self.settled: StoredDirectory | None = None
        self.count = 0 if base is None else len(base)

    def settle(self, stored: StoredDirectory) -> None:
        """Replace the changes by the equal ``stored``; readers under way finish on the old map."""
        self.settled = stored
        self.map = None

    def __len__(self) -> int:
        return self.count

    def lookup(self, name: bytes) -> Entry | None:
        """The entry called ``name``, or None."""
        directory: Directory | None = self
        while directory is not None:
            if isinstance(directory, StoredDirectory):
                return directory.lookup(name)
            changes = directory.map
            if changes is None:
                directory = directory.settled
                continue
            if name in changes.by_name:
                return changes.by_name[name]
            directory = changes.base
        return None

    def at(self, cookie: int) -> Entry | None:
        """The entry with this cookie, or None."""
        directory: Directory | None = self
        while directory is not None:
            if isinstance(directory, StoredDirectory):
                return directory.at(cookie)
            changes = directory.map
            if changes is None:
                directory = directory.settled
                continue
            if cookie in changes.by_cookie:
                return changes.by_cookie[cookie]
            directory = changes.base
        return None

    def entries(self, after: int) -> Iterator[Entry]:
        """Entries with a cookie greater than ``after``, in cookie order; do not change it meanwhile."""
        changes = self.map
        if changes is None:
            if self.settled is not None:
                yield from self.settled.entries(after)
            return
        if changes.listing is None:
            changes.listing = sorted(changes.by_cookie)
        listing, by_cookie = changes.listing, changes.by_cookie
        index = bisect_right(listing, after)
        if changes.base is not None:
            for old in changes.base.entries(after):
                cookie = old.cookie
                while index < len(listing) and listing[index] < cookie:
                    entry = by_cookie[listing[index]]
                    index += 1
                    if entry is not None:
                        yield entry
                if cookie not in by_cookie:
                    yield old
        while index < len(listing):
            entry = by_cookie[listing[index]]
            index += 1
            if entry is not None:
                yield entry

    def put(self, entry: Entry) -> None:
        """Add ``entry``, or let its name point at another inode."""
        changes = self._live
        if changes.listing is not None and entry.cookie not in changes.by_cookie:
            changes.listing = None
        if self.lookup(entry.name) is None:
            self.count += 1
        changes.by_name[entry.name] = changes.by_cookie[entry.cookie] = entry

    def insert(self, entry: Entry) -> None:
        """Add ``entry``, whose name is known to be free."""
        changes = self._live
        changes.listing = None
        self.count += 1
        changes.by_name[entry.name] = changes.by_cookie[entry.cookie] = entry

    def remove(self, entry: Entry) -> None:
        """Take ``entry`` away."""
        changes = self._live
        self.count -= 1
        if changes.base is None:
            del changes.by_name[entry.name], changes.by_cookie[entry.cookie]
            changes.listing = None
            return
        if changes.listing is not None and entry.cookie not in changes.by_cookie:
            changes.listing = None
        changes.by_name[entry.name] = changes.by_cookie[entry.cookie] = None

    def changes(self) -> dict[int, Entry | None]:
        """What differs from the base, by cookie."""
        return self._live.by_cookie

    @property
    def base(self) -> Directory | None:
        """What lies below the changes."""
        return self._live.base

    @property
    def _live(self) -> _Map:
        if self.map is None:
            raise AssertionError("a settled directory is never changed")
        return self.map


Directory = StoredDirectory | OverlayDirectory


def free_cookie(directory: Directory, name: bytes) -> int:
    """The cookie a new entry called ``name`` gets. Raises ENOSPC when 256 names share its key."""
    first = names.directory_key(name, directory.key_bits) << 8
    for cookie in range(first, first + 256):
        if directory.at(cookie) is None:
            return cookie
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
