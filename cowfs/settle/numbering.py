"""Deterministic inode numbers for an import: equal trees get equal numbers (docs/decisions/0302-inode-numbering.md).

Names are numbered in sorted order, directory by directory, depth first. Numbers stay below 2**48.
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from cowfs.errors import Invalid
from cowfs.geometry import ROOT_INO

REGION = 256
"""Numbers in one region: the children of a directory get numbers from as few regions as they need."""

REGION_BITS = 23
"""Bits of a region's number, so that imported inodes stay below 2**31 and 32-bit programs can stat them."""

WIDE_BITS = 39
"""Bits of a region's number when the narrow range around the wanted one is full."""

PROBES = 64
"""Regions tried in a row before the wide range is used."""

HASH_BITS = 47
"""Bits of an inode number made from the hash of a whole path."""


class Numbering(Protocol):
    """Gives out inode numbers while a tree is walked. ``highest`` is the greatest number given out."""

    highest: int

    def enter(self, directory: bytes) -> Children:
        """Start numbering the entries of the directory at this relative path (the root: empty)."""
        ...


class Children(Protocol):
    """Numbers the entries of one directory."""

    def next(self, name: bytes) -> int:
        """The number of the next entry, in sorted order."""
        ...


class PathOrder:
    """1, 2, 3, … in the order of the walk: dense, but one new name near the front moves all later numbers."""

    def __init__(self) -> None:
        self.highest = ROOT_INO

    def enter(self, directory: bytes) -> PathOrder:
        """All directories share one sequence."""
        return self

    def next(self, name: bytes) -> int:
        """The next number."""
        self.highest += 1
        return self.highest


class Following(PathOrder):
    """One after the other, from ``first`` on: for what is added to a tree that has numbers."""

    def __init__(self, first: int) -> None:
        self.highest = first - 1


class PathHash:
    """The hash of the whole path: nothing moves when a name is added, but neighbours lie far apart."""

    def __init__(self) -> None:
        self.highest = ROOT_INO
        self._used = {0, ROOT_INO}

    def enter(self, directory: bytes) -> _HashChildren:
        """Entries are hashed with the path of their directory."""
        return _HashChildren(self, directory + b"/" if directory else b"")

    def take(self, number: int) -> int:
        """The first free number from ``number`` on."""
        while number in self._used:
            number = (number + 1) % (1 << HASH_BITS)
        self._used.add(number)
        self.highest = max(self.highest, number)
        return number


class _HashChildren:
    def __init__(self, numbering: PathHash, prefix: bytes) -> None:
        self._numbering = numbering
        self._prefix = prefix

    def next(self, name: bytes) -> int:
        return self._numbering.take(_hash(self._prefix + name) >> 64 - HASH_BITS)


class DirectoryHash:
    """A region chosen by the hash of the directory's path, then one number after the other.

    The entries of a directory are neighbours in the inode table, and a new name moves only its later siblings.
    """

    def __init__(self) -> None:
        self.highest = ROOT_INO
        self._used = {0}  # region 0 holds the root

    def enter(self, directory: bytes) -> _RegionChildren:
        """Regions are taken as they are needed: an empty directory takes none."""
        return _RegionChildren(self, directory)

    def region(self, wanted: int, hashed: int) -> int:
        """Take the first free region from ``wanted`` on, or one far off when there is none (``hashed``: 64 bits)."""
        for candidate in range(wanted, wanted + PROBES):
            if candidate < 1 << REGION_BITS and candidate not in self._used:
                break
        else:
            candidate = (1 << REGION_BITS) + (hashed >> 64 - WIDE_BITS)
            while candidate in self._used:
                candidate += 1
        self._used.add(candidate)
        return candidate


class _RegionChildren:
    def __init__(self, numbering: DirectoryHash, directory: bytes) -> None:
        self._numbering = numbering
        self._hash = _hash(directory)
        self._wanted = self._hash >> 64 - REGION_BITS
        self._at = 0

    def next(self, name: bytes) -> int:
        if self._at % REGION == 0:
            region = self._numbering.region(self._wanted, self._hash)
            self._wanted = region + 1
            self._at = region * REGION
        number = self._at
        self._at += 1
        if number > self._numbering.highest:
            self._numbering.highest = number
        return number


def _hash(data: bytes) -> int:
    return int.from_bytes(blake3(data).digest(8), "big")


_RULES: dict[str, type[PathOrder] | type[PathHash] | type[DirectoryHash]] = {
    "path-order": PathOrder,
    "path-hash": PathHash,
    "directory-hash": DirectoryHash,
}
NUMBERINGS = tuple(_RULES)
DEFAULT_NUMBERING = "directory-hash"


def numbering(rule: str) -> Numbering:
    """A fresh numbering by this rule, one of :data:`NUMBERINGS`. Raises :class:`Invalid`."""
    try:
        return _RULES[rule]()
    except KeyError:
        raise Invalid(f"inode numbering {rule!r} is unknown", hint="one of " + ", ".join(_RULES)) from None
