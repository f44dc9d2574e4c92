"""Storing blocks: deduplicate, hash and compress on all cores, append in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cowfs.blocks.api import Location
from cowfs.blocks.codec import encode
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import SegmentWriter
from cowfs.errors import Corrupt
from cowfs.formats.checksum import block_id
from cowfs.formats.segment import RAW_MAX, RecordHeader

_POOLED = 128 * 1024  # raw bytes from which handing work to other threads pays
_STEP = 8 << 20  # raw bytes encoded before they are appended


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """Since the writer was made: blocks put, those of them written anew, and the bytes of the latter."""

    put_blocks: int
    new_blocks: int
    new_raw_bytes: int
    new_stored_bytes: int


class BlockWriter:
    """Stores blocks for one job. One thread at a time (it uses others inside).

    Blocks are readable through it at once. A job ends with::

        writer.sync()
        gone = index.commit(*writer.batch())      # in the process that owns the index
        writer.committed(gone)                    # gone: ids to be put again, before the job's root is published

    ``next_segment`` is called when the segment is full, which is sealed then; without it the segment grows on.
    """

    def __init__(
        self,
        reader: BlockReader,
        segment: SegmentWriter,
        *,
        next_segment: Callable[[], SegmentWriter] | None = None,
        threads: int | None = None,
    ) -> None:
        self.reader = reader
        self.nodes = reader.nodes
        self.segment = segment
        self._next_segment = next_segment
        self._threads = threads or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._own: dict[bytes, Location] = {}
        self._handed = 0  # of _own, in order, how many a batch has handed out
        self._relied: dict[bytes, None] = {}
        self._put = self._raw_bytes = self._stored_bytes = self._new = 0

    def put(self, raw: bytes) -> bytes:
        """Store one block unless it is there; returns its id. Raises NoSpace, OSError."""
        if len(raw) > RAW_MAX:
            raise ValueError(f"a block has at most {RAW_MAX} bytes, not {len(raw)}")
        self._put += 1
        id_ = block_id(raw)
        if not self._known(id_):
            self._append([encode(raw, id_)])
        return id_

    def put_many(self, raws: Sequence[bytes]) -> list[bytes]:
        """Store several; the ids come in the same order. New records are appended in that order, too."""
        ids: list[bytes] = []
        first = 0
        while first < len(raws):
            last, size = first, 0
            while last < len(raws) and (size == 0 or size + len(raws[last]) <= _STEP):
                size += len(raws[last])
                last += 1
            ids += self._put_step(raws[first:last], size)
            first = last
        return ids

    def _put_step(self, raws: Sequence[bytes], size: int) -> list[bytes]:
        if size < _POOLED or self._threads == 1 or len(raws) < 2:
            return [self.put(raw) for raw in raws]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="cowfs-blocks")
        slices = _split(raws, size, 2 * self._threads)
        encoded = [one for part in self._pool.map(self._encode, slices) for one in part]
        self._put += len(encoded)
        fresh: dict[bytes, tuple[RecordHeader, bytes]] = {}
        for raw, (id_, record) in zip(raws, encoded, strict=True):
            if record is None and not self._known(id_) and id_ not in fresh:
                record = encode(raw, id_)  # garbage since a thread saw that it was there
            if record is not None:
                fresh.setdefault(id_, record)
        self._append(list(fresh.values()))
        return [id_ for id_, _ in encoded]

    def _encode(self, raws: Sequence[bytes]) -> list[tuple[bytes, tuple[RecordHeader, bytes] | None]]:
        """In a pool thread: (id, record, or None if the block is there). Changes nothing."""
        results: list[tuple[bytes, tuple[RecordHeader, bytes] | None]] = []
        own, relied, has = self._own, self._relied, self.reader.has
        for raw in raws:
            if len(raw) > RAW_MAX:
                raise ValueError(f"a block has at most {RAW_MAX} bytes, not {len(raw)}")
            id_ = block_id(raw)
            known = id_ in own or id_ in relied or has(id_)
            results.append((id_, None if known else encode(raw, id_)))
        return results

    def _known(self, id_: bytes) -> bool:
        if id_ in self._own or id_ in self._relied:
            return True
        if self.reader.has(id_):
            self._relied[id_] = None
            return True
        return False

    def _append(self, records: list[tuple[RecordHeader, bytes]]) -> None:
        if not records:
            return
        if self.segment.full and self._next_segment is not None:
            self.segment.seal()
            self.segment.close()
            self.segment = self._next_segment()
        for (header, stored), location in zip(records, self.segment.append(records), strict=True):
            self._own[header.id] = location
            self._raw_bytes += header.raw_len
            self._stored_bytes += len(stored)
        self._new += len(records)

    def get(self, id_: bytes) -> bytes:
        """The raw bytes, of blocks not committed yet as well. Raises Corrupt."""
        location = self._own.get(id_)
        if location is None:
            return self.reader.get(id_)
        return self.reader.cached(id_) or self.reader.files.read(id_, location)[1]

    def has(self, id_: bytes) -> bool:
        """Whether a put of this block would write nothing."""
        return id_ in self._own or self.reader.has(id_)

    def copy(self, id_: bytes, location: Location) -> bool:
        """Append a stored record once more, as it is; False when it is damaged there. Raises NoSpace, OSError."""
        try:
            record = self.reader.files.read_stored(id_, location)
        except (Corrupt, FileNotFoundError):
            return False
        self._append([record])
        return True

    def rely_on(self, ids: Iterable[bytes]) -> None:
        """Note blocks that the job's result refers to without having put them (an unchanged subtree's).

        Raises Corrupt if one is unknown.
        """
        for id_ in ids:
            if id_ not in self._own and id_ not in self._relied:
                if self.reader.index.get(id_) is None:
                    raise Corrupt(f"no block {id_.hex()}", hint="run cowfs fsck")
                self._relied[id_] = None

    def sync(self) -> None:
        """Make every block put survive power loss."""
        self.segment.sync()

    def batch(self) -> tuple[list[tuple[bytes, Location]], list[bytes]]:
        """(new records, ids relied on) since the last batch, for ``BlockIndex.commit``. Sync first."""
        records = list(self._own.items())[self._handed :]
        relied = list(self._relied)
        self._handed = len(self._own)
        self._relied = {}
        return records, relied

    def committed(self, gone: Iterable[bytes] = ()) -> None:
        """All batches are in the index: forget what is found there. ``gone`` is written again by its next put."""
        if self._handed == len(self._own):
            self._own = {}
            self._handed = 0
        for id_ in gone:
            self._own.pop(id_, None)
            self.nodes.discard(id_)

    def statistics(self) -> WriterStatistics:
        """Figures of now."""
        return WriterStatistics(self._put, self._new, self._raw_bytes, self._stored_bytes)

    def close(self) -> None:
        """Stop the threads; the segment stays open for whoever made it."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _split(raws: Sequence[bytes], size: int, parts: int) -> list[Sequence[bytes]]:
    """Contiguous slices of about equal raw size."""
    slices: list[Sequence[bytes]] = []
    first, filled, share = 0, 0, size / parts
    for index, raw in enumerate(raws):
        filled += len(raw)
        if filled >= share * (len(slices) + 1):
            slices.append(raws[first : index + 1])
            first = index + 1
    if first < len(raws):
        slices.append(raws[first:])
    return slices
