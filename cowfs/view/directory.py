"""Directory entries: at rest (a radix tree), or as changes over an older directory.

The same invariants as in :mod:`cowfs.view.file`: stored ones are immutable, an overlay changes only in
its own delta, and a frozen overlay may be replaced by an equal stored one at any moment.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import Dirent, decode_dirent
from cowfs.tree import names, radix
from cowfs.view.inode import Owner

if TYPE_CHECKING:
    from cowfs.view.file import FileData

DEPTH_MAX: Final = 16
"""Overlays on each other, one per layer that changed the directory, before they are merged into one."""

_SLACK: Final = 1000


class StoredDirectory:
    """A directory at rest."""

    __slots__ = ("blocks", "key_bits", "pointer")

    def __init__(self, blocks: BlockSource, pointer: bytes, key_bits: int) -> None:
        self.blocks = blocks
        self.pointer = pointer
        self.key_bits = key_bits

    def lookup(self, name: bytes) -> Dirent | None:
        """The entry called ``name``, or None."""
        if not self.pointer:
            return None
        return names.find_name(self.blocks, self.pointer, names.directory_key(name, self.key_bits), name)

    def at(self, cookie: int) -> Dirent | None:
        """The entry with this cookie, or None."""
        value = radix.lookup(self.blocks, self.pointer, cookie) if self.pointer else None
        return None if value is None else decode_dirent(cookie, value)

    def entries(self, after: int) -> Iterator[Dirent]:
        """Entries with a cookie greater than ``after``, in cookie order."""
        for cookie, value in radix.scan(self.blocks, self.pointer, after + 1):
            yield decode_dirent(cookie, value)

    def __len__(self) -> int:
        return radix.count(self.pointer)


class _Map:
    """Changes over ``base``: by name and by cookie; None is a removed entry of the base.

    ``listing`` holds the cookie of every entry in ``by_cookie``, sorted unless ``grown``, maybe repeated,
    and some that are gone; it is made when somebody lists the directory.
    """

    __slots__ = ("base", "by_cookie", "by_name", "grown", "listing")

    def __init__(self, base: Directory | None) -> None:
        self.base = base
        self.by_name: dict[bytes, Dirent | None] = {}
        self.by_cookie: dict[int, Dirent | None] = {}
        self.listing: list[int] | None = None
        self.grown = False

    def listed(self) -> list[int]:
        """The listing, sorted."""
        listing = self.listing
        if listing is None or len(listing) > 2 * len(self.by_cookie) + _SLACK:
            listing = self.listing = sorted(self.by_cookie)
        elif self.grown:
            listing.sort()  # two sorted runs: linear
        self.grown = False
        return listing


class OverlayDirectory:
    """A directory in motion. ``len()`` is its number of entries without ``.`` and ``..``.

    ``depth``: how many overlays lie on each other, at most :data:`DEPTH_MAX`; what merges them enters itself in
    ``merged``.
    """

    __slots__ = ("count", "depth", "key_bits", "map", "owner", "settled")

    def __init__(self, owner: Owner, base: Directory | None, key_bits: int, merged: list[FileData | Directory]) -> None:
        self.owner = owner
        self.key_bits = key_bits
        self.settled: StoredDirectory | None = None
        self.count = 0 if base is None else len(base)
        self.depth: int = base.depth + 1 if isinstance(base, OverlayDirectory) and base.map is not None else 1
        self.map: _Map | None = _Map(base)
        if self.depth > DEPTH_MAX:
            self.map, self.depth = _merged(base), 1
            merged.append(self)

    def settle(self, stored: StoredDirectory) -> None:
        """Replace the changes by the equal ``stored``; readers under way finish on the old map."""
        self.settled = stored
        self.map = None

    def __len__(self) -> int:
        return self.count

    def lookup(self, name: bytes) -> Dirent | None:
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

    def at(self, cookie: int) -> Dirent | None:
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

    def entries(self, after: int) -> Iterator[Dirent]:
        """Entries with a cookie greater than ``after``, in cookie order; do not change it meanwhile."""
        changes = self.map
        if changes is None:
            if self.settled is not None:
                yield from self.settled.entries(after)
            return
        listing, by_cookie = changes.listed(), changes.by_cookie
        index = bisect_right(listing, after)
        last = after
        if changes.base is not None:
            for old in changes.base.entries(after):
                cookie = old.cookie
                while index < len(listing) and listing[index] < cookie:
                    entry = by_cookie.get(listing[index])
                    index += 1
                    if entry is not None and entry.cookie != last:
                        last = entry.cookie
                        yield entry
                if cookie not in by_cookie:
                    yield old
        while index < len(listing):
            entry = by_cookie.get(listing[index])
            index += 1
            if entry is not None and entry.cookie != last:
                last = entry.cookie
                yield entry

    def put(self, entry: Dirent) -> None:
        """Add ``entry``, or let its name point at another inode."""
        if self.lookup(entry.name) is None:
            self.count += 1
        self._enter(entry)

    def insert(self, entry: Dirent) -> None:
        """Add ``entry``, whose name is known to be free."""
        self.count += 1
        self._enter(entry)

    def _enter(self, entry: Dirent) -> None:
        changes = self._live
        if changes.listing is not None:
            changes.listing.append(entry.cookie)
            changes.grown = True
        changes.by_name[entry.name] = changes.by_cookie[entry.cookie] = entry

    def remove(self, entry: Dirent) -> None:
        """Take ``entry`` away; only what the base has needs to be remembered as removed."""
        changes = self._live
        self.count -= 1
        base, by_name, by_cookie = changes.base, changes.by_name, changes.by_cookie
        if base is None:
            del by_name[entry.name], by_cookie[entry.cookie]
            return
        if entry.cookie not in by_cookie or base.at(entry.cookie) is not None:
            by_cookie[entry.cookie] = None
        else:
            del by_cookie[entry.cookie]
        if entry.name not in by_name or base.lookup(entry.name) is not None:
            by_name[entry.name] = None
        else:
            del by_name[entry.name]

    def changes(self) -> dict[int, Dirent | None]:
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


def lowest(directory: Directory) -> StoredDirectory | None:
    """The stored directory that lies below everything changed since, if there is one."""
    at: Directory | None = directory
    while isinstance(at, OverlayDirectory):
        changes = at.map
        at = at.settled if changes is None else changes.base
    return at


def _merged(directory: Directory | None) -> _Map:
    """All changes of a stack of overlays as one map over what lies below them."""
    levels = []
    while isinstance(directory, OverlayDirectory):
        changes = directory.map
        if changes is None:
            directory = directory.settled
            continue
        levels.append(changes)
        directory = changes.base
    merged = _Map(directory)
    for changes in reversed(levels):
        merged.by_name.update(changes.by_name)
        merged.by_cookie.update(changes.by_cookie)
    if directory is None:
        merged.by_name = {name: entry for name, entry in merged.by_name.items() if entry is not None}
        merged.by_cookie = {cookie: entry for cookie, entry in merged.by_cookie.items() if entry is not None}
    return merged


def free_cookie(directory: Directory, name: bytes) -> int:
    """The cookie a new entry called ``name`` gets. Raises ENOSPC when 256 names share its key."""
    first = names.directory_key(name, directory.key_bits) << 8
    for cookie in range(first, first + 256):
        if directory.at(cookie) is None:
            return cookie
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
