"""Garbage collection: blocks that nothing needs go, while everything else goes on.

A block is chosen when no root needs it; then it is condemned (whoever would rely on it writes it again), then what
roots published meanwhile need is taken back, then it is swept if it is still condemned at the same place. Segments
without blocks are deleted, those mostly dead are copied together first. What is needed is found in a child process.
A collection that ends at any point leaves a store that is right; the next one goes on.

Why no block in use is swept, whenever its root is published: a job that handed its blocks in before they were condemned
either has published its root by the second look, which takes them back, or still holds a lease on them; one that hands
in later takes back what it relied on in that same step, or writes it again. Subtrees that a root shares with its parent
are the parent's, which was published before.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cowfs.blocks.api import Location
from cowfs.blocks.index import BlockIndex, SegmentUsage
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import segment_ids, segment_path
from cowfs.catalog.catalog import Catalog
from cowfs.errors import Busy, NoSpace
from cowfs.formats.segment import ENTRY_BYTES, RECORD_BYTES
from cowfs.host import Host
from cowfs.jobs import Jobs
from cowfs.reserve import Reserve
from cowfs.results import Collected
from cowfs.settle.collect import Marked as MarkedBlocks
from cowfs.store import StoreDirectory

BATCH = 2_000
"""Blocks in one index transaction: about 10 ms, which whoever commits waits for at most."""

DEAD_SHARE = 0.25
"""A segment with more dead bytes than this share of it is copied: so that 3 bytes are copied for 1 that comes back."""

THOROUGH_SHARE = 0.05
"""The same when somebody asks for space."""

DEAD_BYTES_MIN = 64 << 10
"""For less a segment is not copied."""

SEGMENTS_AT_ONCE = 4

Progress = Callable[[dict[str, Any]], None]
Marked = Sequence[tuple[bytes, Location]]


class Collector:
    """One store's garbage collection. ``lock`` is the engine's, for the catalog.

    ``worthwhile``: something has been dropped since the last collection.
    """

    def __init__(
        self, store: StoreDirectory, catalog: Catalog, lock: threading.RLock, index: BlockIndex, blocks: BlockReader,
        host: Host, jobs: Jobs, reserve: Reserve,
    ) -> None:  # fmt: skip
        self._reserve = reserve
        self._store = store
        self._catalog = catalog
        self._lock = lock
        self._index = index
        self._blocks = blocks
        self._host = host
        self._segments, self._copier, self._free = jobs.segments, jobs.copier, jobs.free
        self._one = threading.Lock()
        self.worthwhile = False
        self.removed_blocks = self.freed_bytes = 0
        self._held: Counter[bytes] = Counter()

    def collect(self, dry_run: bool, progress: Progress, dead_share: float = DEAD_SHARE) -> Collected:
        """Collect, or with ``dry_run`` only say what would go. Segments of which more is dead are copied together.

        Raises Busy (another one is running, or a worker is being replaced), Corrupt (what is needed cannot be read).
        """
        if not self._one.acquire(blocking=False):
            raise Busy("garbage is being collected already", hint="Wait for that to end.")
        marks = self._store.tmp / "gc-marks"
        worthwhile, self.worthwhile = self.worthwhile, False
        done = False
        try:
            roots = self._roots()
            garbage, needed = self._reserve.enough(lambda: self._marked(roots, marks, progress))
            if dry_run:
                return self._weighed(garbage)
            done = True
            self._take_back(needed)  # condemned by a collection that was cut off
            condemned = self._condemn(garbage, progress)
            later = self._copier.mark(self._roots() - roots, self._host.unnamed(), marks, False, None).needed
            self._take_back(later)
            swept = self._sweep(condemned, progress)
            freed = self._compact(progress, dead_share)
            size = sum(location.stored_len for _, location in swept)
            self.removed_blocks += len(swept)
            self.freed_bytes += freed
            return Collected(len(swept), size, freed, dry_run=False)
        finally:
            self.worthwhile = self.worthwhile or (worthwhile and not done)
            shutil.rmtree(marks, ignore_errors=True)
            self._one.release()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is collected meanwhile; waits for a collection under way."""
        with self._one:
            yield

    @contextmanager
    def holding(self, root: bytes) -> Iterator[None]:
        """Somebody reads below ``root`` within, whatever becomes of its snapshot."""
        with self._lock:
            self._held[root] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[root] -= 1

    def _roots(self) -> set[bytes]:
        with self._lock:
            needed = self._catalog.roots() | {root for root, users in self._held.items() if users}
        return needed | set(self._host.shown().values())

    def _weighed(self, garbage: Sequence[bytes]) -> Collected:
        size = 0
        for id_ in garbage:
            location = self._index.get(id_)
            size += location.stored_len if location is not None else 0
        return Collected(len(garbage), size, 0, dry_run=True)

    def _marked(self, roots: set[bytes], marks: Path, progress: Progress) -> MarkedBlocks:
        """What no root needs, and what one does although it is condemned; ``marks`` begins anew."""
        shutil.rmtree(marks, ignore_errors=True)

        def seen(blocks: int, _: int) -> None:
            progress({"phase": "mark", "blocks": blocks})

        return self._copier.mark(roots, self._host.unnamed(), marks, True, seen)

    def _take_back(self, needed: Sequence[bytes]) -> None:
        for ids in _batches(iter(needed)):
            self._reserve.enough(partial(self._index.commit, (), ids))

    def _condemn(self, garbage: Sequence[bytes], progress: Progress) -> list[tuple[bytes, Location]]:
        condemned: list[tuple[bytes, Location]] = []
        for ids in _batches(iter(garbage)):
            condemned += self._reserve.enough(partial(self._free, ids, self._index.condemn))
            progress({"phase": "condemn", "blocks": len(condemned)})
        return condemned

    def _sweep(self, condemned: Marked, progress: Progress) -> list[tuple[bytes, Location]]:
        swept: list[tuple[bytes, Location]] = []
        for first in range(0, len(condemned), BATCH):
            swept += self._reserve.enough(partial(self._index.sweep, condemned[first : first + BATCH]))
            progress({"phase": "sweep", "blocks": len(swept)})
        return swept

    def _compact(self, progress: Progress, dead_share: float) -> int:
        """Delete empty segments, copy those with much that is dead together; how many bytes of files went."""
        mostly_dead = self._mostly_dead(dead_share)
        freed = self._delete_empty()
        with suppress(NoSpace):  # what is empty has gone, the rest waits for the next time
            for first in range(0, len(mostly_dead), SEGMENTS_AT_ONCE):
                before = self._bytes()
                self._copier.compact(mostly_dead[first : first + SEGMENTS_AT_ONCE])
                self._delete_empty()
                freed += max(before - self._bytes(), 0)
                progress({"phase": "compact", "segments": min(first + SEGMENTS_AT_ONCE, len(mostly_dead))})
        return freed

    def _mostly_dead(self, dead_share: float) -> list[int]:
        """Segments to copy, none of which a writer has or gets any more; so are those without blocks."""
        alive = {usage.segment: _alive(usage) for usage in self._index.usage()}
        found = []
        for segment in segment_ids(self._store.segments):
            size = segment_path(self._store.segments, segment).stat().st_size
            dead = size - alive.get(segment, 0)
            if dead > max(dead_share * size, DEAD_BYTES_MIN) and (
                segment not in self._segments.in_use() or self._segments.retire(segment)
            ):
                found.append(segment)
        alive = {usage.segment: _alive(usage) for usage in self._index.usage()}
        return [segment for segment in found if segment in alive]

    def _delete_empty(self) -> int:
        # In this order: a segment that a writer has let go of has its blocks in the index by then.
        files = segment_ids(self._store.segments)
        spared = self._segments.in_use()
        used = {usage.segment for usage in self._index.usage()}
        freed = 0
        empty = [segment for segment in files if segment not in spared and segment not in used]
        for segment in empty:
            path = segment_path(self._store.segments, segment)
            freed += path.stat().st_size
            path.unlink()
            self._blocks.files.forget(segment)
        if empty:
            with suppress(Busy):  # a process that has ended holds no descriptors
                self._host.forget_segments(empty)
        return freed

    def _bytes(self) -> int:
        return sum(
            segment_path(self._store.segments, segment).stat().st_size for segment in segment_ids(self._store.segments)
        )


def _alive(usage: SegmentUsage) -> int:
    """Bytes of a segment's file that are for blocks in the index."""
    return usage.stored_bytes + usage.blocks * (RECORD_BYTES + ENTRY_BYTES)


def _batches(ids: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(ids, BATCH)):
        yield batch
