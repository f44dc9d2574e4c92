"""Reading blocks: index, segment files, bounded caches."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from cowfs.blocks.api import Location
from cowfs.blocks.cache import CacheStatistics, LruCache
from cowfs.blocks.codec import decode, verify
from cowfs.blocks.index import BlockIndex
from cowfs.blocks.segments import segment_path
from cowfs.blocks.suspect import suspect
from cowfs.errors import Corrupt
from cowfs.formats.node import Branch, Leaf
from cowfs.formats.segment import RECORD_BYTES, RecordHeader, check_lengths, decode_record_header

CACHE_BYTES = 64 << 20
OPEN_SEGMENTS = 64
"""Segment descriptors kept open at most."""


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """``open_segments``: descriptors held; the caches count in bytes."""

    open_segments: int
    raw: CacheStatistics
    nodes: CacheStatistics


class Misplaced(Corrupt):
    """A good record lies at a place, but of another block: the index is wrong, not the segment."""


class _File:
    """A descriptor that is closed with its last reference: eviction never closes it under a reading thread."""

    __slots__ = ("_fd",)

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, size: int, offset: int) -> bytes:
        """A method, since compiled code lets go of a local at its last use, and that of a descriptor is too early."""
        return os.pread(self._fd, size, offset)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class SegmentFiles:
    """Reads records at locations. Thread-safe; ``_lock`` guards the table of descriptors only."""

    def __init__(self, directory: Path, limit: int = OPEN_SEGMENTS) -> None:
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[int, _File] = OrderedDict()

    def read(self, id_: bytes, location: Location) -> tuple[RecordHeader, bytes]:
        """(header, raw bytes). Raises FileNotFoundError (the segment is gone), Corrupt, OSError."""
        return self._read(id_, location)[::2]

    def read_stored(self, id_: bytes, location: Location) -> tuple[RecordHeader, bytes]:
        """(header, stored bytes), as good as those of :meth:`read`. Raises likewise."""
        return self._read(id_, location)[:2]

    def _read(self, id_: bytes, location: Location) -> tuple[RecordHeader, bytes, bytes]:
        file = self._file(location.segment)
        try:
            check_lengths(location.codec, location.raw_len, location.stored_len)
            data = file.pread(RECORD_BYTES + location.stored_len, location.offset)
            header = decode_record_header(data[:RECORD_BYTES])
            if header.id != id_ or header[:3] != location[4:5] + location[2:4]:
                raise Misplaced("the record there is another one")
            stored = data[RECORD_BYTES:]
            return header, stored, decode(header, stored)
        except Corrupt as error:
            name = f"block {id_.hex()} in segment {location.segment:016x} at byte {location.offset}"
            raise type(error)(f"{name}: {error.message}", hint="run cowfs fsck") from None

    def _file(self, segment: int) -> _File:
        with self._lock:
            file = self._files.get(segment)
            if file is None:
                file = self._files[segment] = _File(segment_path(self._directory, segment))
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(segment)
            return file

    def forget(self, segment: int) -> None:
        """Drop the descriptor of a segment that was deleted."""
        with self._lock:
            self._files.pop(segment, None)

    def close(self) -> None:
        """Drop all descriptors."""
        with self._lock:
            self._files.clear()

    @property
    def open_segments(self) -> int:
        """Descriptors held now."""
        return len(self._files)


class BlockReader:
    """Blocks by id. Thread-safe. ``nodes`` is the cache of decoded tree nodes.

    Does not own the index: close that after the readers that use it.
    """

    def __init__(
        self,
        index: BlockIndex,
        segments_dir: Path,
        *,
        raw_cache_bytes: int = CACHE_BYTES,
        node_cache_bytes: int = CACHE_BYTES,
        open_segments: int = OPEN_SEGMENTS,
    ) -> None:
        self.index = index
        self.segments_dir = segments_dir
        self.files = SegmentFiles(segments_dir, open_segments)
        self.nodes: LruCache[Leaf | Branch] = LruCache(node_cache_bytes)
        self._raw: LruCache[bytes] = LruCache(raw_cache_bytes)

    def get(self, id_: bytes) -> bytes:
        """The raw bytes. Raises Corrupt (unknown or damaged; names block and segment)."""
        raw = self._raw.get(id_)
        if raw is None:
            raw = self._read(id_)[1]
            self._raw.put(id_, raw, len(raw) + 100)
        return raw

    def has(self, id_: bytes) -> bool:
        """Whether a block is there and not condemned."""
        return self.index.has(id_)

    def cached(self, id_: bytes) -> bytes | None:
        """The raw bytes if they are in memory: no I/O."""
        return self._raw.get(id_)

    def verify(self, id_: bytes) -> None:
        """Read a block past all caches and hash it again. Raises Corrupt."""
        header, raw = self._read(id_)
        try:
            verify(header, raw)
        except Corrupt as error:
            raise Corrupt(f"block {id_.hex()}: {error.message}", hint="run cowfs fsck") from None

    def _read(self, id_: bytes) -> tuple[RecordHeader, bytes]:
        location = self._locate(id_)
        try:
            return self.files.read(id_, location)
        except (FileNotFoundError, Corrupt):
            # The block may have moved, its old segment gone: look it up again, once.
            self.files.forget(location.segment)
            moved = self._locate(id_)
            if moved == location and not segment_path(self.segments_dir, location.segment).exists():
                raise Corrupt(
                    f"block {id_.hex()}: its segment {location.segment:016x} is missing", hint="run cowfs fsck"
                ) from None
            try:
                return self.files.read(id_, moved)
            except FileNotFoundError:
                raise Corrupt(f"block {id_.hex()}: segment {moved.segment:016x} is missing") from None
            except Misplaced as error:
                suspect(self.index.path, error.message)
                raise

    def _locate(self, id_: bytes) -> Location:
        location = self.index.get(id_)
        if location is None:
            raise Corrupt(f"no block {id_.hex()}", hint="run cowfs fsck")
        return location

    def statistics(self) -> ReaderStatistics:
        """Figures of now."""
        return ReaderStatistics(self.files.open_segments, self._raw.statistics(), self.nodes.statistics())

    def close(self) -> None:
        """Drop descriptors and caches."""
        self.files.close()
        self._raw.clear()
        self.nodes.clear()
