"""Bytes of one file that are bytes of another: copy_file_range without a copy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final

from cowfs.geometry import PAGE
from cowfs.view.file import HOLE, ZERO, FileData, OverlayFile, Source, StoredFile, bottom
from cowfs.view.inode import Owner


class Shared:
    """What another file's bytes were when a range was cloned from it: data that never changes any more.

    It is of the parent's state, so its blocks stay as long as that is needed to settle who holds this. ``depth``: how
    many of these are read through each other, at most; those in between are settled sooner or later.
    """

    __slots__ = ("data", "depth")

    def __init__(self, data: FileData) -> None:
        self.data = data
        self.depth: int = 1 + data.shared if isinstance(data, OverlayFile) and data.map is not None else 1

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes of the other file."""
        return self.data.read(offset, size)


SHARED_MAX: Final = 8
"""Files read through each other, each the clone of the next in an unsettled layer, before a range is copied instead."""

PIECES_MAX: Final = 1000
"""Extents that one clone makes at most: each takes as much memory, and time to replay, as a record."""

Piece = tuple[int, int, Source, int]
"""Bytes [start, end), and where they lie: a source and the position of ``start`` in it."""


def pieces(data: FileData, start: int, end: int, owner: Owner) -> Iterator[Piece]:
    """What bytes [start, end) of ``data`` are, in order, in terms that stay when it changes.

    Holes are zeros, as after a copy that reads and writes.

    ``owner``: whose data may still change. Raises Corrupt.
    """
    level = data.map if isinstance(data, OverlayFile) and data.owner is owner else None
    if level is None:
        yield from _shared(data, start, end)
        return
    starts, extents = level.starts, level.extents
    at, index = start, max(bisect_right(starts, start) - 1, 0)
    while at < end:
        while index < len(starts) and extents[index][0] <= at:
            index += 1
        begins = starts[index] if index < len(starts) else end
        if begins > at:
            gap_end = min(begins, end)
            limit = max(min(gap_end, level.limit), at)
            if level.base is not None and at < limit:
                yield from _shared(level.base, at, limit)
            else:
                limit = at
            if limit < gap_end:
                yield limit, gap_end, ZERO, 0
            at = gap_end
            continue
        extent_end, source, position = extents[index]
        cut = min(extent_end, end)
        yield at, cut, ZERO if source is HOLE else source, position + at - begins
        at = cut


def reach(data: FileData, start: int, end: int, owner: Owner) -> int:
    """How far from ``start`` on bytes [start, end) of ``data`` may be cloned at once. Raises Corrupt."""
    at = start
    for _, stop, source, _ in islice(pieces(data, start, end, owner), PIECES_MAX):
        if isinstance(source, Shared) and source.depth > SHARED_MAX:
            break
        at = stop
    return at


def _shared(data: FileData, start: int, end: int) -> Iterator[Piece]:
    """The same of data that does not change any more."""
    source, at = Shared(data), start
    for first, last in data.runs(start // PAGE, -(-end // PAGE)):
        begins, ends = max(first * PAGE, start), min(last * PAGE, end)
        if begins > at:
            yield at, begins, ZERO, 0
        yield begins, ends, source, begins
        at = ends
    if at < end:
        yield at, end, ZERO, 0


def bottoms(data: FileData) -> Iterator[StoredFile]:
    """The stored files that ``data`` lies on: see :func:`bottom`; and those that it shares bytes of."""
    level = data.map if isinstance(data, OverlayFile) else None
    lying_on = (
        [data, *(source.data for _, source, _ in level.extents if isinstance(source, Shared))] if level else [data]
    )
    for each in lying_on:
        if (found := bottom(each)) is not None:
            yield found
