"""The block index: LMDB, id -> where the record lies. It is only an index: segments can rebuild it.

One process at a time opens it writable (the owner of the store); any number open it read-only. A handle must not
cross a fork or spawn: every process opens its own, and using one in another process raises RuntimeError.
Within a process it is thread-safe; read transactions last one call.

A block may be *condemned* (chosen for deletion): ``has`` answers no for it, so that a put writes it again; ``get``
still finds it. ``commit`` takes the mark off ids that somebody relies on; ``sweep`` removes an id only if it is still
condemned at the same place. Each is one transaction, so no order of the two loses a block in use.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from cowfs.blocks.api import Location
from cowfs.blocks.environment import READERS_MAX, allocate_lock, is_full
from cowfs.blocks.suspect import suspect
from cowfs.durable import sync_directory
from cowfs.errors import Busy, Corrupt, NoSpace, NotFound
from cowfs.formats.checksum import ID_BYTES

MAP_BYTES = 64 << 30
"""Size of the sparse map: address space and an upper bound, not disk space."""

DATA_FILE = "data.mdb"
"""The file of LMDB in the directory of an index."""

_SCAN_BATCH = 4096  # entries listed in one read transaction
_VALUE = struct.Struct("<QIIIBB")  # segment, offset, raw, stored, codec, state
_USAGE = struct.Struct("<qqq")  # blocks, raw bytes, stored bytes
_SEGMENT_KEY = struct.Struct(">Q")
_LIVE, _CONDEMNED = 0, 1
_GROWTH_MAX = 64  # times the file's size that an index may claim to be: more is damage, not free pages

_DAMAGE = (
    lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PageFullError, lmdb.CursorFullError,
    lmdb.PanicError, lmdb.VersionMismatchError, lmdb.IncompatibleError,
)  # fmt: skip
"""What LMDB raises when its file makes no sense."""


@dataclass(frozen=True, slots=True)
class SegmentUsage:
    """What the index refers to in one segment (condemned blocks included); bytes of blocks, without headers."""

    segment: int
    blocks: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """Sums over all segments; ``map_used_bytes`` is what the LMDB file occupies."""

    blocks: int
    raw_bytes: int
    stored_bytes: int
    segments: int
    map_used_bytes: int


class BlockIndex:
    """The index in directory ``path``. Raises Corrupt when LMDB cannot make sense of its file, NotFound when there
    is none to read, Busy when this process has it open already (share the handle).

    A writable one creates the directory and clears readers that died. ``create`` False: blocks are known to be in it,
    so a missing or empty one is Corrupt, and is not made anew.
    """

    def __init__(self, path: Path, *, writable: bool, create: bool = True, map_bytes: int = MAP_BYTES) -> None:
        if writable and not create and _file_size(path) <= 0:
            raise Corrupt(f"block index {path} is missing", hint="restore it from a copy of the store")
        if writable:
            path.mkdir(mode=0o700, exist_ok=True)
            allocate_lock(path)
        self.path = path
        self.writable = writable
        self._pid = os.getpid()
        try:
            self._env = lmdb.open(
                str(path), map_size=map_bytes, readonly=not writable, create=writable, max_readers=READERS_MAX,
                max_dbs=4, max_spare_txns=8, readahead=False, mode=0o600,
            )  # fmt: skip
        except lmdb.Error as error:
            if "already open" in str(error):
                raise Busy(f"block index {path} is already open in this process", hint="share the handle") from None
            if not writable and not (path / DATA_FILE).exists():
                raise NotFound(f"no block index in {path}") from None
            self._fail(error)
        size = _file_size(path)
        try:
            with self._errors():
                if writable:
                    self._reach_end(size)
                    self._env.reader_check()
                self._blocks = self._env.open_db(b"blocks", create=writable and create)
                self._usage = self._env.open_db(b"usage", create=writable and create)
                if writable:
                    # LMDB syncs no directory; and what a process wrote that was killed then may not be durable yet.
                    self._env.sync(True)
                    sync_directory(path)
        except BaseException:
            self._env.close()
            if writable and _file_size(path) > size:
                os.truncate(path / DATA_FILE, size)
            raise

    def _reach_end(self, size: int) -> None:
        """Make the file as long as LMDB believes it is: touching a mapped page behind its end would be a SIGBUS.

        LMDB leaves the last pages unwritten when they are free; those of a file that was cut read as no page at all.
        """
        end = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if end > _GROWTH_MAX * max(size, 1 << 20):
            raise Corrupt(f"block index {self.path}: it claims to be {end} bytes long", hint="run cowfs fsck")
        if size < end:
            os.truncate(self.path / DATA_FILE, end)

    # Reading

    def get(self, id_: bytes) -> Location | None:
        """Where a block lies, condemned or not; None if it is unknown."""
        value = self._value(id_)
        return None if value is None else _location(value)[0]

    def has(self, id_: bytes) -> bool:
        """Whether a block is there and not condemned, so that relying on it needs no new copy."""
        value = self._value(id_)
        return value is not None and value[-1] == _LIVE

    def items(self, start: bytes = b"") -> Iterator[tuple[bytes, Location, bool]]:
        """(id, location, condemned) from id ``start`` on, in id order.

        Read in short transactions: what is committed meanwhile may or may not be seen.
        """
        while True:
            batch: list[tuple[bytes, Location, bool]] = []
            with self._errors(), self._env.begin(self._blocks) as txn, txn.cursor() as cursor:
                if not (cursor.set_range(start) if start else cursor.first()):
                    return
                for key, value in cursor.iternext():
                    batch.append((key, *_location(value)))
                    if len(batch) == _SCAN_BATCH:
                        break
            yield from batch
            if len(batch) < _SCAN_BATCH:
                return
            start = batch[-1][0] + b"\0"

    def usage(self) -> list[SegmentUsage]:
        """Per segment, ascending by id."""
        with self._errors(), self._env.begin(self._usage) as txn, txn.cursor() as cursor:
            return [SegmentUsage(_unpacked(_SEGMENT_KEY, key)[0], *_unpacked(_USAGE, value)) for key, value in cursor]

    def recount(self) -> tuple[dict[int, tuple[int, int, int]], dict[int, tuple[int, int, int]]]:
        """Blocks, raw and stored bytes per segment: as counted, and as added up from the blocks, of one moment."""
        real: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        with self._errors(), self._env.begin() as txn:
            with txn.cursor(self._usage) as cursor:
                said = {_unpacked(_SEGMENT_KEY, key)[0]: _unpacked(_USAGE, value) for key, value in cursor}
            with txn.cursor(self._blocks) as cursor:
                for value in cursor.iternext(keys=False):
                    segment, _, raw_len, stored_len, *_ = _unpacked(_VALUE, value)
                    sums = real[segment]
                    sums[0] += 1
                    sums[1] += raw_len
                    sums[2] += stored_len
        return {key: (a, b, c) for key, (a, b, c) in said.items()}, {k: (a, b, c) for k, (a, b, c) in real.items()}

    def statistics(self) -> IndexStatistics:
        """Figures of now."""
        usage = self.usage()
        info, stat = self._env.info(), self._env.stat()
        return IndexStatistics(
            sum(one.blocks for one in usage),
            sum(one.raw_bytes for one in usage),
            sum(one.stored_bytes for one in usage),
            len(usage),
            (info["last_pgno"] + 1) * stat["psize"],
        )

    # Writing (one process)

    def commit(
        self, records: Iterable[tuple[bytes, Location]], relied_on: Iterable[bytes] = (), *, replace: bool = False
    ) -> list[bytes]:
        """Add records whose segments are synced, and take the mark off ids relied on; durable on return.

        Returns the ids of ``relied_on`` that are gone, to be written again. A block that is already there and not
        condemned keeps its place, unless ``replace`` (moving blocks, replacing damaged copies). Raises NoSpace.
        """
        gone: list[bytes] = []
        with self._writing() as batch:
            for id_, location in records:
                old = batch.get(id_)
                if old is None or replace or old[1]:
                    batch.put(id_, old, location, _LIVE)
            for id_ in relied_on:
                old = batch.get(id_)
                if old is None:
                    gone.append(id_)
                elif old[1]:
                    batch.put(id_, old, old[0], _LIVE)
        return gone

    def move(self, records: Iterable[tuple[bytes, Location]]) -> None:
        """Blocks were copied: they are at new places now, those that are still known. Raises NoSpace."""
        with self._writing() as batch:
            for id_, location in records:
                old = batch.get(id_)
                if old is not None:
                    batch.put(id_, old, location, _CONDEMNED if old[1] else _LIVE)

    def condemn(self, ids: Iterable[bytes]) -> list[tuple[bytes, Location]]:
        """Mark blocks as chosen for deletion. Returns those that are there, with their places, for :meth:`sweep`."""
        marked: list[tuple[bytes, Location]] = []
        with self._writing() as batch:
            for id_ in ids:
                old = batch.get(id_)
                if old is not None:
                    batch.put(id_, old, old[0], _CONDEMNED)
                    marked.append((id_, old[0]))
        return marked

    def sweep(self, marked: Iterable[tuple[bytes, Location]]) -> list[tuple[bytes, Location]]:
        """Remove blocks that are still condemned at the same place; returns those removed."""
        removed: list[tuple[bytes, Location]] = []
        with self._writing() as batch:
            for id_, location in marked:
                old = batch.get(id_)
                if old is not None and old[1] and old[0] == location:
                    batch.delete(id_, location)
                    removed.append((id_, location))
        return removed

    def delete(self, ids: Iterable[bytes]) -> int:
        """Remove blocks whatever their state (repair: their records are lost); returns how many were there."""
        count = 0
        with self._writing() as batch:
            for id_ in ids:
                old = batch.get(id_)
                if old is not None:
                    batch.delete(id_, old[0])
                    count += 1
        return count

    def clear_readers(self) -> int:
        """Free the reader slots of processes that died; returns how many."""
        return int(self._env.reader_check())

    def close(self) -> None:
        """Close the handle. No other call may be running or follow."""
        self._env.close()

    # Inside

    def _value(self, id_: bytes) -> bytes | None:
        if os.getpid() != self._pid:
            raise RuntimeError("a block index handle must not be used in another process")
        try:
            with self._env.begin(self._blocks) as txn:
                value: bytes | None = txn.get(id_)
        except lmdb.Error as error:
            self._fail(error)
        return value

    @contextmanager
    def _writing(self) -> Iterator[_Batch]:
        if os.getpid() != self._pid:
            raise RuntimeError("a block index handle must not be used in another process")
        with self._errors(), self._env.begin(self._blocks, write=True) as txn:
            batch = _Batch(txn)
            yield batch
            batch.write_usage(self._usage)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if is_full(error, self.path):
            raise NoSpace(f"block index {self.path}: {error}") from error
        if isinstance(error, _DAMAGE):
            suspect(self.path, str(error))
        raise Corrupt(f"block index {self.path}: {error}", hint="run cowfs fsck") from error


class _Batch:
    """One write transaction, and what it changes in the usage of segments."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn
        self._delta: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])

    def get(self, id_: bytes) -> tuple[Location, bool] | None:
        value = self._txn.get(id_)
        return None if value is None else _location(value)

    def put(self, id_: bytes, old: tuple[Location, bool] | None, location: Location, state: int) -> None:
        if len(id_) != ID_BYTES:
            raise ValueError("a block id has 32 bytes")
        self._txn.put(id_, _VALUE.pack(*location, state))
        if old is None or old[0] != location:
            if old is not None:
                self._count(old[0], -1)
            self._count(location, 1)

    def delete(self, id_: bytes, location: Location) -> None:
        self._txn.delete(id_)
        self._count(location, -1)

    def _count(self, location: Location, sign: int) -> None:
        delta = self._delta[location.segment]
        delta[0] += sign
        delta[1] += sign * location.raw_len
        delta[2] += sign * location.stored_len

    def write_usage(self, database: lmdb._Database) -> None:
        for segment, delta in self._delta.items():
            key = _SEGMENT_KEY.pack(segment)
            old = self._txn.get(key, db=database)
            total = [a + b for a, b in zip(_unpacked(_USAGE, old) if old else (0, 0, 0), delta, strict=True)]
            if total[0] > 0:
                self._txn.put(key, _USAGE.pack(*total), db=database)
            elif old:
                self._txn.delete(key, db=database)


class IndexMaker:
    """Fills a new index, which nobody else has open, as fast as can be. A context manager.

    Nothing is durable before :meth:`finish`. Raises lmdb.Error.
    """

    def __init__(self, path: Path, map_bytes: int = MAP_BYTES) -> None:
        self._env = lmdb.open(
            str(path), map_size=map_bytes, max_dbs=4, sync=False, metasync=False, lock=False, mode=0o600
        )
        self._blocks = self._env.open_db(b"blocks")
        self._usage = self._env.open_db(b"usage")
        self._used: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.blocks = 0

    def __enter__(self) -> IndexMaker:
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()

    def add(self, records: Iterable[tuple[bytes, Location]]) -> list[tuple[bytes, Location, Location]]:
        """Add blocks, in one transaction; those that are there elsewhere stay as they are: (id, old, new place)."""
        there: list[tuple[bytes, Location, Location]] = []
        with self._env.begin(self._blocks, write=True) as txn:
            for id_, location in sorted(records):
                if txn.put(id_, _VALUE.pack(*location, _LIVE), overwrite=False):
                    self._count(location, 1)
                    self.blocks += 1
                else:
                    there.append((id_, _location(txn.get(id_, b""))[0], location))
        return there

    def replace(self, id_: bytes, old: Location, new: Location) -> None:
        """A block that is at ``old`` is rather at ``new``."""
        with self._env.begin(self._blocks, write=True) as txn:
            txn.put(id_, _VALUE.pack(*new, _LIVE))
        self._count(old, -1)
        self._count(new, 1)

    def finish(self) -> None:
        """Make it durable."""
        with self._env.begin(self._usage, write=True) as txn:
            for segment, used in self._used.items():
                if used[0]:
                    txn.put(_SEGMENT_KEY.pack(segment), _USAGE.pack(*used))
        self._env.sync(True)

    def _count(self, location: Location, sign: int) -> None:
        used = self._used[location.segment]
        used[0] += sign
        used[1] += sign * location.raw_len
        used[2] += sign * location.stored_len


def _file_size(path: Path) -> int:
    """Bytes in the file of the index in directory ``path``; -1 without one."""
    try:
        return (path / DATA_FILE).stat().st_size
    except FileNotFoundError:
        return -1


def _unpacked(layout: struct.Struct, data: bytes | memoryview) -> tuple[Any, ...]:
    try:
        return layout.unpack(data)
    except struct.error:
        raise Corrupt("block index: a key or value of wrong length", hint="run cowfs fsck") from None


def _location(value: bytes | memoryview) -> tuple[Location, bool]:
    *fields, state = _unpacked(_VALUE, value)
    return Location(*fields), state != _LIVE
