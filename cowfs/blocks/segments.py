"""Segment files: appending, resuming, sealing, and listing what one holds.

One writer at a time; readers use positions from the index, so they never see an unfinished record.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cowfs.blocks.api import Location
from cowfs.blocks.codec import decode, verify
from cowfs.durable import sync_directory
from cowfs.errors import Conflict, Corrupt, NoSpace
from cowfs.formats.segment import (
    HEADER_BYTES,
    OFFSET_MAX,
    RECORD_BYTES,
    RECORD_MAGIC,
    TRAILER_BYTES,
    FooterEntry,
    RecordHeader,
    decode_footer,
    decode_header,
    decode_record_header,
    decode_trailer,
    encode_footer,
    encode_header,
    encode_record_header,
)

SEGMENT_TARGET = 128 * 1024 * 1024
"""Bytes at which a segment is full and should be sealed."""

_FREE = "free some space, then try again"
_IOV_MAX = 1024  # buffers in one writev(2)
_SEARCH = 1 << 20  # bytes read at a time while looking for the next record behind damage


@dataclass(frozen=True, slots=True)
class SegmentContents:
    """What a segment file holds. ``end`` is where its last good record ends.

    ``sealed``: it has a valid footer. ``torn``: bytes behind ``end`` (of an unsealed one) are no record.
    ``damage``: (offset, what) of damaged ranges that have good records behind them.
    """

    segment_id: int
    records: tuple[tuple[bytes, Location], ...]
    end: int
    sealed: bool
    torn: bool
    damage: tuple[tuple[int, str], ...]


def segment_path(directory: Path, segment_id: int) -> Path:
    """The file of a segment."""
    return directory / f"{segment_id:016x}.seg"


def segment_ids(directory: Path) -> list[int]:
    """Ids of the segment files in a directory, ascending; other files are left alone."""
    found = []
    for path in directory.glob("*.seg"):
        stem = path.name[:-4]
        if len(stem) == 16 and all(c in "0123456789abcdef" for c in stem):
            found.append(int(stem, 16))
    return sorted(found)


def read_segment(path: Path, *, scan: bool = False, deep: bool = False, salvage: bool = False) -> SegmentContents:
    """List a segment: by its footer if it is sealed and the footer is good, else record by record.

    ``scan`` reads every record even so, checking XXH3; ``deep`` checks the BLAKE3 ids too.
    Raises Corrupt when the file header is no segment's, OSError when it cannot be read. ``salvage``: such a header is
    damage at byte 0, and the file is read as the segment of its name.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        try:
            segment_id, bad = decode_header(os.pread(fd, HEADER_BYTES, 0)), None
        except Corrupt as error:
            if not salvage:
                raise Corrupt(f"segment {path.name}: {error.message}") from None
            segment_id, bad = int(path.stem, 16), (0, error.message)
        found = _list(fd, segment_id, size, scan=scan, deep=deep)
        return found if bad is None else replace(found, damage=(bad, *found.damage))
    finally:
        os.close(fd)


def _list(fd: int, segment_id: int, size: int, *, scan: bool, deep: bool) -> SegmentContents:
    footer = _read_footer(fd, size)
    if footer is None:
        return _scan(fd, segment_id, size, sealed=False, deep=deep)
    entries, end = footer
    if scan or deep:
        return _scan(fd, segment_id, end, sealed=True, deep=deep)
    records = tuple((entry.id, Location(segment_id, *entry[1:])) for entry in entries)
    return SegmentContents(segment_id, records, end, True, False, ())


def _read_footer(fd: int, size: int) -> tuple[list[FooterEntry], int] | None:
    try:
        _, offset = decode_trailer(os.pread(fd, TRAILER_BYTES, max(size - TRAILER_BYTES, 0)), size)
        return decode_footer(os.pread(fd, size - offset, offset), offset), offset
    except Corrupt:
        return None


def _scan(fd: int, segment_id: int, size: int, *, sealed: bool, deep: bool) -> SegmentContents:
    records: list[tuple[bytes, Location]] = []
    damage: list[tuple[int, str]] = []
    pending: tuple[int, str] | None = None  # damage with nothing good behind it yet
    at = end = HEADER_BYTES
    while at < size:
        try:
            header = _read_record(fd, at, size, deep)
        except Corrupt as error:
            pending = pending or (at, error.message)
            at = _next_record(fd, at + 1, size)
            continue
        if pending:
            damage.append(pending)
            pending = None
        records.append((header.id, Location(segment_id, at, header.raw_len, header.stored_len, header.codec)))
        at = end = at + RECORD_BYTES + header.stored_len
    if pending and sealed:
        damage.append(pending)
    return SegmentContents(segment_id, tuple(records), end, sealed, pending is not None, tuple(damage))


def _read_record(fd: int, at: int, size: int, deep: bool) -> RecordHeader:
    header = decode_record_header(os.pread(fd, RECORD_BYTES, at))
    if at + RECORD_BYTES + header.stored_len > size:
        raise Corrupt("block record: runs over the end")
    raw = decode(header, os.pread(fd, header.stored_len, at + RECORD_BYTES))
    if deep:
        verify(header, raw)
    return header


def _next_record(fd: int, at: int, size: int) -> int:
    """Offset of the next record magic from ``at`` on, or ``size``."""
    while at < size:
        chunk = os.pread(fd, min(_SEARCH, size - at), at)
        found = chunk.find(RECORD_MAGIC)
        if found >= 0:
            return at + found
        if len(chunk) <= len(RECORD_MAGIC):
            break
        at += len(chunk) - len(RECORD_MAGIC) + 1
    return size


class SegmentWriter:
    """Appends block records to one segment file. One thread at a time.

    Opening an existing unsealed segment goes on behind its last good record; a torn tail is cut.
    Raises Conflict if it is sealed, Corrupt if it is damaged before its end (take a new segment then:
    the good records stay readable).
    """

    def __init__(self, path: Path, segment_id: int, *, target_bytes: int = SEGMENT_TARGET) -> None:
        self.path = path
        self.segment_id = segment_id
        self.sealed = False
        self._target = target_bytes
        self._entries: list[FooterEntry] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.size = self._resume() if os.fstat(self._fd).st_size >= HEADER_BYTES else self._start()
            self.keep()
            sync_directory(path.parent)  # of one that is gone on with too: its first writer may have died before
        except BaseException:
            os.close(self._fd)
            raise

    def _start(self) -> int:
        os.ftruncate(self._fd, 0)
        _write_all(self._fd, [encode_header(self.segment_id)], 0)
        return HEADER_BYTES

    def _resume(self) -> int:
        found = read_segment(self.path)
        if found.segment_id != self.segment_id:
            raise Corrupt(f"segment {self.path.name}: its header names segment {found.segment_id:016x}")
        if found.sealed:
            raise Conflict(f"segment {self.path.name} is sealed")
        if found.damage:
            offset, what = found.damage[0]
            raise Corrupt(f"segment {self.path.name}: damaged at byte {offset} ({what})", hint="run cowfs fsck")
        self._entries = [FooterEntry(id_, *location[1:]) for id_, location in found.records]
        os.ftruncate(self._fd, found.end)
        return found.end

    @property
    def full(self) -> bool:
        """Whether it has reached its target size."""
        return self.size >= self._target

    def records(self) -> Iterator[tuple[bytes, Location]]:
        """Every record in the file, in order: after a resume, those of earlier writers too."""
        return ((entry.id, Location(self.segment_id, *entry[1:])) for entry in self._entries)

    def append(self, blocks: Sequence[tuple[RecordHeader, bytes]]) -> list[Location]:
        """Append records (header, stored bytes) in order. All or none; raises NoSpace, OSError."""
        buffers: list[bytes] = []
        locations: list[Location] = []
        at = self.size
        for header, stored in blocks:
            buffers += (encode_record_header(header), stored)
            locations.append(Location(self.segment_id, at, header.raw_len, header.stored_len, header.codec))
            at += RECORD_BYTES + len(stored)
        if at > OFFSET_MAX or self.sealed:
            raise Conflict(f"segment {self.path.name} takes no more records")
        try:
            _write_all(self._fd, buffers, self.size)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"no space left for {at - self.size} bytes of blocks", hint=_FREE) from error
            raise
        self.size = at
        for (header, _), location in zip(blocks, locations, strict=True):
            self._entries.append(FooterEntry(header.id, *location[1:]))
        return locations

    def keep(self) -> None:
        """Somebody may refer to every record appended so far."""
        self._kept = self.size, len(self._entries)

    def drop(self) -> None:
        """Cut off what was appended since the last :meth:`keep`, unless the segment is sealed. Raises OSError."""
        if not self.sealed:
            self.size, entries = self._kept
            del self._entries[entries:]
            os.ftruncate(self._fd, self.size)

    def sync(self) -> None:
        """Make every appended record survive power loss."""
        os.fdatasync(self._fd)

    def seal(self) -> None:
        """Write the footer and sync; nothing can be appended any more.

        The records are synced first: a footer that a power loss left says that they are there.
        """
        if self.sealed:
            return
        self.sync()
        try:
            _write_all(self._fd, [encode_footer(self._entries, self.size)], self.size)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace("no space left to seal a segment", hint=_FREE) from error
            raise
        self.sync()
        self.sealed = True

    def close(self) -> None:
        """Close the file; does not sync."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, buffers: list[bytes], offset: int) -> None:
    """Write all buffers from ``offset`` on, short writes continued."""
    for first in range(0, len(buffers), _IOV_MAX):
        batch = buffers[first : first + _IOV_MAX]
        wanted = sum(map(len, batch))
        written = os.pwritev(fd, batch, offset)
        if written < wanted:
            rest = memoryview(b"".join(batch))
            while written < wanted:
                written += os.pwrite(fd, rest[written:], offset + written)
        offset += wanted
