"""File data: at rest (blocks), or as extents in journals over older data.

Invariants:
- :class:`StoredFile` is immutable. :class:`OverlayFile` is changed only by the delta that owns it,
  under the workspace's lock; once its layer is frozen it never changes, except that
  :meth:`OverlayFile.settle` replaces it by an equal representation. Readers take ``map`` once.
- A byte outside every extent comes from ``base`` below ``limit``, else it is zero.
- A page is allocated when any byte of it lies in a data or zero extent, or in a gap over an
  allocated page of the base that begins below ``limit``. Hole extents allocate nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from cowfs.blocks.api import BlockSource
from cowfs.errors import Corrupt
from cowfs.formats import inode as fmt
from cowfs.formats.inode import Content
from cowfs.geometry import PAGE
from cowfs.tree import radix
from cowfs.view.inode import Owner

if TYPE_CHECKING:
    from cowfs.view.directory import Directory

Run = tuple[int, int]
"""Pages [first, end) that are allocated."""


DEPTH_MAX: Final = 16
"""Overlays on each other, one per layer that changed the file, before they are merged into one."""


class Source(Protocol):
    """Where the bytes of an extent lie: a journal file."""

    def pread(self, size: int, offset: int) -> bytes:
        """``size`` bytes at ``offset``. Raises OSError or Corrupt."""


class _Mark:
    """An extent without bytes."""

    def pread(self, size: int, offset: int) -> bytes:
        """Zeros."""
        return bytes(size)


ZERO: Final = _Mark()
"""An allocated range of zeros (the edge of a punched hole)."""

HOLE: Final = _Mark()
"""A range that was deallocated."""


class StoredFile:
    """File data at rest: ``content`` of a file of ``size`` bytes in blocks of ``1 << block_log2``."""

    __slots__ = ("block_log2", "blocks", "content", "size")

    def __init__(self, blocks: BlockSource, content: Content, size: int, block_log2: int) -> None:
        self.blocks = blocks
        self.content = content
        self.size = size
        self.block_log2 = block_log2

    @property
    def top(self) -> int:
        """No page from this one on is allocated."""
        return -(-self.size // PAGE)

    def allocated(self, first: int, end: int) -> int:
        """How many pages of [first, end) are allocated. Raises Corrupt."""
        content = self.content
        shift = self.block_log2 - 12
        number = first >> shift
        if content.kind != fmt.TREE or (end - 1) >> shift != number:
            return sum(b - a for a, b in self.runs(first, end))
        value = radix.lookup(self.blocks, content.data, number)
        if value is None:
            return 0
        mask = fmt.decode_file_block(value)[0] >> (first - (number << shift))
        return (mask & ((1 << end - first) - 1)).bit_count()

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``offset``; zeros past the end. Raises Corrupt."""
        return joined(self.pieces(offset, size))

    def pieces(self, offset: int, size: int) -> list[bytes]:
        """The same in pieces, as they are stored: putting them together is a copy more."""
        content = self.content
        if content.kind == fmt.NONE:
            return [bytes(size)]
        if content.kind == fmt.TREE:
            return self._map_pieces(offset, size)
        data = content.data if content.kind == fmt.INLINE else self.blocks.get(content.data)
        if len(data) != self.size:
            raise Corrupt(f"file data: {len(data)} bytes stored for a file of {self.size}")
        piece = data[offset : offset + size]
        return [piece] if len(piece) == size else [piece, bytes(size - len(piece))]

    def _map_pieces(self, offset: int, size: int) -> list[bytes]:
        log2 = self.block_log2
        block_size = 1 << log2
        first, last = offset >> log2, (offset + size - 1) >> log2
        pieces: list[bytes] = []
        at = offset
        found: Iterable[tuple[int, bytes]]
        if first == last:
            alone = radix.lookup(self.blocks, self.content.data, first)
            found = () if alone is None else ((first, alone),)
        else:
            found = radix.scan(self.blocks, self.content.data, first, last + 1)
        for number, value in found:
            start = number << log2
            if start > at:
                pieces.append(bytes(start - at))
                at = start
            data = self.blocks.get(fmt.decode_file_block(value)[1])
            if len(data) != min(block_size, self.size - start):
                raise Corrupt("file map: a block has the wrong length")
            piece = data[at - start : offset + size - start]
            pieces.append(piece)
            at += len(piece)
        if at < offset + size:
            pieces.append(bytes(offset + size - at))
        return pieces

    def runs(self, first: int, end: int) -> Iterator[Run]:
        """Allocated runs within pages [first, end), in order, merged where they touch."""
        content = self.content
        if content.kind in (fmt.INLINE, fmt.BLOCK):
            yield from _mask_runs(content.mask, 0, first, end)
        elif content.kind == fmt.TREE:
            shift = self.block_log2 - 12
            pending: Run | None = None
            for number, value in radix.scan(self.blocks, content.data, first >> shift, ((end - 1) >> shift) + 1):
                mask, _ = fmt.decode_file_block(value)
                for run in _mask_runs(mask, number << shift, first, end):
                    if pending is not None and pending[1] == run[0]:
                        pending = (pending[0], run[1])
                    else:
                        if pending is not None:
                            yield pending
                        pending = run
            if pending is not None:
                yield pending


def _mask_runs(mask: int, base: int, first: int, end: int) -> Iterator[Run]:
    page = base
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        page += skip
        length = (~mask & (mask + 1)).bit_length() - 1
        a, b = max(page, first), min(page + length, end)
        if a < b:
            yield a, b
        mask >>= length
        page += length


class _Map:
    """The extents of one overlay: ``starts[i]`` begins ``extents[i]`` = (end, source, position)."""

    __slots__ = ("base", "extents", "limit", "starts")

    def __init__(self, base: FileData | None, limit: int) -> None:
        self.base = base
        self.limit = limit
        self.starts: list[int] = []
        self.extents: list[tuple[int, Source, int]] = []


class OverlayFile:
    """File data in motion: extents over ``base``, whose first ``limit`` bytes are valid.

    ``depth``: how many overlays lie on each other, at most :data:`DEPTH_MAX`; what merges them enters itself in
    ``merged``. ``shared``: how many other files its bytes are read through, at most.
    """

    __slots__ = ("depth", "map", "owner", "settled", "shared", "top")

    def __init__(self, owner: Owner, base: FileData | None, limit: int, merged: list[FileData | Directory]) -> None:
        self.owner = owner
        self.map: _Map | None = _Map(base, limit)
        self.settled: StoredFile | None = None
        self.top = -(-limit // PAGE)
        moving = base if isinstance(base, OverlayFile) and base.map is not None else None
        self.depth: int = moving.depth + 1 if moving is not None else 1
        self.shared: int = moving.shared if moving is not None else 0
        if self.depth > DEPTH_MAX:
            self._merge()
            merged.append(self)

    def _merge(self) -> None:
        """Take over the extents of all overlays below, and lie on what these lie on."""
        levels = []
        at, limit = self._live.base, self._live.limit
        while isinstance(at, OverlayFile):
            level = at.map
            if level is None:
                at = at.settled
                continue
            levels.append(level)
            at = level.base
        lowest = levels.pop()
        self.map = merged = _Map(at, lowest.limit)
        merged.starts, merged.extents = lowest.starts.copy(), lowest.extents.copy()
        for level in reversed(levels):
            self.truncate(level.limit)
            for start, (end, source, position) in zip(level.starts, level.extents, strict=True):
                self.replace(start, end, source, position)
        self.truncate(limit)
        self.top, self.depth = -(-limit // PAGE), 1

    def settle(self, stored: StoredFile) -> None:
        """Replace the extents by the equal ``stored``; readers under way finish on the old map."""
        self.settled = stored
        self.map = None

    @property
    def _live(self) -> _Map:
        if self.map is None:
            raise AssertionError("a settled file is never changed")
        return self.map

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``offset``. Raises Corrupt or OSError."""
        return joined(self.pieces(offset, size))

    def pieces(self, offset: int, size: int) -> list[bytes]:
        """The same in pieces, as they are stored."""
        while True:
            extents = self.map
            if extents is None:
                return self._stored().pieces(offset, size)
            try:
                return _pieces(extents, offset, size)
            except FileNotFoundError:
                # The journal file went after this file was settled, between our two looks.
                if self.map is not None:
                    raise

    def _stored(self) -> StoredFile:
        if self.settled is None:
            raise AssertionError("neither extents nor stored data")
        return self.settled

    def runs(self, first: int, end: int) -> Iterator[Run]:
        """Allocated runs within pages [first, end), in order, merged where they touch."""
        extents = self.map
        if extents is None:
            yield from self._stored().runs(first, end)
            return
        last: Run | None = None
        for a, b in _raw_runs(extents, first, end):
            if last is None:
                last = (a, b)
            elif a <= last[1]:
                last = (last[0], max(b, last[1]))
            else:
                yield last
                last = (a, b)
        if last is not None:
            yield last

    def allocated(self, first: int, end: int) -> int:
        """How many pages of [first, end) are allocated. Raises Corrupt."""
        extents = self.map
        if extents is None:
            return self._stored().allocated(first, end)
        starts, found = extents.starts, extents.extents
        at, stop = first * PAGE, end * PAGE
        index = bisect_right(starts, at) - 1
        extent_end = found[index][0] if index >= 0 else 0
        if extent_end >= stop:  # all in one extent
            return 0 if found[index][1] is HOLE else end - first
        if extent_end <= at and (index + 1 == len(starts) or starts[index + 1] >= stop):  # all in one gap
            base, limit = extents.base, min(stop, extents.limit)
            return base.allocated(first, -(-limit // PAGE)) if base is not None and at < limit else 0
        return sum(b - a for a, b in self.runs(first, end))

    def put(self, start: int, end: int, source: Source, position: int) -> None:
        """Let bytes [start, end) come from ``source``."""
        self.replace(start, end, source, position)
        last = -(-end // PAGE)
        if last > self.top:
            self.top = last

    def replace(self, start: int, end: int, source: Source, position: int) -> None:
        """Cover bytes [start, end) with one extent, cutting what lay there."""
        live = self._live
        starts, extents = live.starts, live.extents
        if not starts or start >= extents[-1][0]:
            starts.append(start)
            extents.append((end, source, position))
            return
        low = bisect_right(starts, start) - 1
        if low < 0 or extents[low][0] <= start:
            low += 1
        high = low
        new_starts, new_extents = [start], [(end, source, position)]
        while high < len(starts) and starts[high] < end:
            old_start, (old_end, old_source, old_position) = starts[high], extents[high]
            if old_start < start:
                new_starts.insert(0, old_start)
                new_extents.insert(0, (start, old_source, old_position))
            if old_end > end:
                new_starts.append(end)
                new_extents.append((old_end, old_source, old_position + end - old_start))
            high += 1
        starts[low:high] = new_starts
        extents[low:high] = new_extents

    def truncate(self, size: int) -> None:
        """Forget every byte from ``size`` on: it reads as a hole when the file grows again.

        A page that ``size`` cuts stays allocated, even when all that was ever written to it goes.
        """
        live = self._live
        page = size // PAGE
        cut_page_allocated = size % PAGE and self.allocated(page, page + 1)
        live.limit = min(live.limit, size)
        self.top = min(self.top, -(-size // PAGE))
        starts, extents = live.starts, live.extents
        while starts and starts[-1] >= size:
            del starts[-1], extents[-1]
        if extents and extents[-1][0] > size:
            extents[-1] = (size, extents[-1][1], extents[-1][2])
        if cut_page_allocated and not self.allocated(page, page + 1):
            self.replace(page * PAGE, size, ZERO, 0)

    def punch(self, start: int, end: int, size: int) -> int:
        """Deallocate whole pages in [start, end), zero the edges; returns how many pages were freed.

        A page that the end of the file (``size``) cuts counts as whole.
        """
        end = min(end, size)
        if start >= end:
            return 0
        first = -(-start // PAGE)
        last = -(-end // PAGE) if end == size else end // PAGE
        freed = self.allocated(first, last) if first < last else 0
        head_end = min(first * PAGE, end)
        if start < head_end and self.allocated(start // PAGE, start // PAGE + 1):
            self.replace(start, head_end, ZERO, 0)
        tail_start = max(last * PAGE, head_end, start)
        if tail_start < end and self.allocated(tail_start // PAGE, tail_start // PAGE + 1):
            self.replace(tail_start, end, ZERO, 0)
        if first < last:
            self.replace(first * PAGE, min(last * PAGE, end), HOLE, 0)
        return freed

    def dirty_ranges(self) -> list[Run]:
        """Byte ranges [start, end) that differ from the base: every extent, in order."""
        live = self._live
        return [(start, extent[0]) for start, extent in zip(live.starts, live.extents, strict=True)]

    @property
    def base(self) -> FileData | None:
        """What lies below the extents."""
        return self._live.base

    @property
    def limit(self) -> int:
        """Bytes of the base that are valid."""
        return self._live.limit


def _pieces(live: _Map, offset: int, size: int) -> list[bytes]:
    starts, extents = live.starts, live.extents
    stop = offset + size
    index = bisect_right(starts, offset) - 1
    if index >= 0:
        end, source, position = extents[index]
        if end >= stop:
            return [source.pread(size, position + offset - starts[index])]
        if end <= offset:
            index += 1
    else:
        index = 0
    pieces: list[bytes] = []
    at = offset
    while at < stop:
        start = starts[index] if index < len(starts) else stop
        if start > at:
            gap_end = min(start, stop)
            pieces += _base_pieces(live, at, gap_end - at)
            at = gap_end
            continue
        end, source, position = extents[index]
        length = min(end, stop) - at
        pieces.append(source.pread(length, position + at - start))
        at += length
        index += 1
    return pieces


def _base_pieces(live: _Map, offset: int, size: int) -> list[bytes]:
    valid = min(size, live.limit - offset)
    if live.base is None or valid <= 0:
        return [bytes(size)]
    pieces = live.base.pieces(offset, valid)
    return pieces if valid == size else [*pieces, bytes(size - valid)]


def joined(pieces: list[bytes]) -> bytes:
    """All of them in one."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _raw_runs(live: _Map, first: int, end: int) -> Iterator[Run]:
    """Allocated runs of pages in order of their start; neighbours may touch or overlap by a page."""
    starts, extents = live.starts, live.extents
    at, stop = first * PAGE, end * PAGE
    index = max(bisect_right(starts, at) - 1, 0)
    if index < len(starts) and extents[index][0] <= at:
        index += 1
    while at < stop:
        start = starts[index] if index < len(starts) else stop
        if start > at:
            gap_end = min(start, stop)
            limit = min(gap_end, live.limit)
            if live.base is not None and at < limit:
                yield from live.base.runs(at // PAGE, -(-limit // PAGE))
            at = gap_end
            continue
        extent_end, source, _ = extents[index]
        cut = min(extent_end, stop)
        index += 1
        if source is HOLE:
            at = cut
            continue
        page = -(-cut // PAGE)
        yield at // PAGE, page
        at = page * PAGE  # What else lies in its last page, thousands of pieces maybe, allocates nothing more.
        if index < len(starts) and starts[index] < at:
            index = bisect_right(starts, at, index) - 1
            if extents[index][0] <= at:
                index += 1


FileData = StoredFile | OverlayFile


def bottom(data: FileData) -> StoredFile | None:
    """The stored file that lies below everything written since, if there is one."""
    at: FileData | None = data
    while isinstance(at, OverlayFile):
        level = at.map
        at = at.settled if level is None else level.base
    return at


def fresh_pages(data: FileData, start: int, end: int) -> int:
    """How many pages a write of bytes [start, end) newly allocates. Raises Corrupt."""
    first, last, top = start // PAGE, -(-end // PAGE), data.top
    if first >= top:
        return last - first
    return last - first - data.allocated(first, min(last, top))
