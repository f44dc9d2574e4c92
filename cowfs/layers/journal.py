"""The journal of one workspace: a chain of append-only files, written before anything is answered.

Threads: ``append`` runs under the workspace's lock. ``sync`` runs without it, in any thread; concurrent
callers share one fdatasync (group commit).

Invariants:
- file numbers and sequence numbers have no gap; a file is synced before anything in the next is durable;
- a failed append leaves the file as it was before it (the torn bytes are cut off);
- after a failed sync nothing is called durable any more: the kernel may have dropped what it could not
  write, and a second fdatasync would not tell.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cowfs.durable import sync_directory
from cowfs.errors import Corrupt
from cowfs.formats import journal as fmt
from cowfs.formats.journal import Envelope, FileHeader, Record
from cowfs.layers.layer import Span

FIRST_FILE = 16
"""Number of a workspace's first journal file; smaller numbers have a meaning of their own in extents."""

WRITE_OUT_BYTES = 4 * 1024 * 1024
"""Unwritten tail at which the kernel is asked to start writing, so that a later sync is short."""

_SYNC_FILE_RANGE_WRITE = 2
_FULL = (errno.ENOSPC, errno.EDQUOT)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a journal goes on to its next file."""

    file_bytes: int = 64 * 1024 * 1024
    file_records: int = 200_000


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next record goes; ``seq`` is its sequence number. ``file_no`` 0: no file exists yet."""

    file_no: int
    offset: int
    seq: int


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """``unsynced``: bytes appended since the last sync began."""

    files: int
    next_seq: int
    unsynced: int


class JournalFile:
    """One open journal file; a source of extents. The descriptor lives as long as the object."""

    __slots__ = ("fd", "file_no", "first_seq", "path", "workspace")

    def __init__(self, path: Path, workspace: str, file_no: int, first_seq: int, fd: int) -> None:
        self.path = path
        self.workspace = workspace
        self.file_no = file_no
        self.first_seq = first_seq
        self.fd = fd

    @classmethod
    def open(cls, directory: Path, workspace: str, file_no: int, *, writable: bool = False) -> JournalFile:
        """Open an existing file and check its header. Raises FileNotFoundError, Corrupt."""
        path = file_path(directory, workspace, file_no)
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        file = cls(path, workspace, file_no, 0, fd)
        try:
            header = fmt.decode_header(os.pread(fd, fmt.HEADER_BYTES, 0))
        except Corrupt as error:
            raise Corrupt(f"{file}, byte 0: {error}", hint=error.hint) from None
        if header.file_no != file_no or header.workspace != workspace:
            raise Corrupt(f"{file}, byte 0: its header is that of another file")
        file.first_seq = header.first_seq
        return file

    def __str__(self) -> str:
        return f"journal {self.workspace}/{self.path.name}"

    def pread(self, size: int, offset: int) -> bytes:
        """``size`` bytes at ``offset``. Raises Corrupt when the file is shorter."""
        data = os.pread(self.fd, size, offset)
        if len(data) != size:
            raise Corrupt(f"{self}: shorter than its records say")
        return data

    def __del__(self) -> None:
        os.close(self.fd)


def file_path(directory: Path, workspace: str, file_no: int) -> Path:
    """Path of a journal file; ``directory`` is the store's journals directory."""
    return directory / workspace / f"{file_no:010d}.journal"


class Journal:
    """The writing end. ``position`` is where replay found the end; nothing is created before the first append."""

    def __init__(
        self, directory: Path, workspace: str, position: Position, limits: Limits | None = None,
        relieve: Callable[[bool], bool] = lambda vital: False,
    ) -> None:  # fmt: skip
        """``relieve(vital)`` makes some room on a full disk; see :meth:`append`."""
        self._relieve = relieve
        self.directory = directory
        self.workspace = workspace
        self.limits = limits or Limits()
        self.seq = position.seq
        self._file: JournalFile | None = None
        self._file_no = position.file_no
        self._end = position.offset
        self._records = 0
        self._layer_start, self._layer_seq = position.offset, position.seq
        self._spans: list[Span] = []
        self._written_out = 0
        self._writing: Future[None] | None = None
        self._sync_lock = threading.Lock()
        self._unsynced: list[JournalFile] = []
        self._rotations = self._named = 0
        self._sync_failed = False
        self._synced_seq = position.seq
        self._attested = position.seq
        self.damage: Corrupt | None = None

    @property
    def position(self) -> Position:
        """Where the next record goes."""
        return Position(self._file_no, self._end, self.seq)

    def append(self, record: Record, time: int, connection: int = 0, unique: int = 0) -> tuple[JournalFile, int]:
        """Write one record; returns its file and offset. Raises OSError (ENOSPC, EIO): nothing was added.

        On a full disk the reserve is asked for room: markers may have all of it, they are what verbs write.
        """
        try:
            file = self._ready()
            data = fmt.encode(self._file_no, self.seq + 1, self._synced_seq, time, connection, unique, record)
            position = self._write(file, [data], len(data))
        except OSError as error:
            if error.errno not in _FULL or not self._relieve(isinstance(record, fmt.MARKERS)):
                raise
            return self.append(record, time, connection, unique)
        self.seq += 1
        return file, position

    def append_write(
        self, ino: int, offset: int, kill_priv: int, data: bytes | memoryview, time: int, connection: int, unique: int
    ) -> tuple[JournalFile, int]:
        """Write one Write record without copying ``data``; returns the file and the offset of the data.

        ``data`` has at most ``formats.journal.WRITE_DATA_MAX`` bytes. Raises OSError as :meth:`append`.
        """
        file = self._ready()
        head = fmt.encode_write_head(
            self._file_no, self.seq + 1, self._synced_seq, time, connection, unique, ino, offset, kill_priv, data
        )
        position = self._write(file, [head, data], fmt.WRITE_DATA_AT + len(data))
        self.seq += 1
        return file, position + fmt.WRITE_DATA_AT

    def cut(self) -> tuple[Span, ...]:
        """The spans of everything since the last cut; the next record begins a new layer."""
        spans = (*self._spans, Span(self._file_no, self._layer_start, self._end))
        self._spans = []
        self._layer_start, self._layer_seq = self._end, self.seq
        return tuple(span for span in spans if span[2] > span[1])

    def layer_bytes(self) -> int:
        """Bytes of the live layer's records."""
        return sum(end - start for _, start, end in self._spans) + self._end - self._layer_start

    def layer_records(self) -> int:
        """How many records the live layer has."""
        return self.seq - self._layer_seq

    def attest(self, time: int) -> None:
        """Sync, and say so in one more record: damage before it is then never taken for a torn tail.

        Nothing is written when nothing was appended since it was said last. Raises OSError.
        """
        self.sync()
        if self.seq > self._attested:
            self.append(fmt.CLEAN_END, time)
            self._attested = self.seq

    def sync(self) -> None:
        """Return when everything appended before the call survives power loss.

        Raises OSError; from then on always EIO, until the workspace is opened again.
        """
        wanted = self.seq
        with self._sync_lock:
            if self._synced_seq >= wanted:
                return
            if self._sync_failed:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            reached, rotations = self.seq, self._rotations
            files = list(self._unsynced)
            try:
                for file in files:
                    os.fdatasync(file.fd)
                if rotations != self._named:
                    sync_directory(self.directory / self.workspace)
                    sync_directory(self.directory)
            except OSError:
                self._sync_failed = True
                raise
            self._named = rotations
            del self._unsynced[: max(len(files) - 1, 0)]
            self._synced_seq = reached

    def statistics(self) -> JournalStatistics:
        """Counts of this moment."""
        return JournalStatistics(len(self._unsynced), self.seq + 1, self._end - self._written_out)

    def enter(self, file: JournalFile, start: int) -> None:
        """Replay goes on in ``file`` at ``start``."""
        if self._end > self._layer_start:
            self._spans.append(Span(self._file_no, self._layer_start, self._end))
        self._file, self._file_no, self._records = file, file.file_no, 0
        self._end = self._layer_start = self._written_out = start
        self._unsynced.append(file)
        self._rotations += 1

    def replayed(self, seq: int, end: int) -> None:
        """A record was replayed that ends at ``end``."""
        self.seq, self._end = seq, end
        self._attested = seq
        self._records += 1

    def stop(self, damage: Corrupt) -> None:
        """Nothing is appended any more, from now on OSError (EROFS): what lies behind the end is damaged and kept."""
        self.damage, self._file = damage, None

    def cut_tail(self) -> None:
        """Remove for good whatever lies behind the last replayed record, later files too."""
        cut = False
        if self._file is not None and os.fstat(self._file.fd).st_size > self._end:
            os.ftruncate(self._file.fd, self._end)
            os.fsync(self._file.fd)
        for number in file_numbers(self.directory, self.workspace):
            if number > self._file_no:
                file_path(self.directory, self.workspace, number).unlink()
                cut = True
        if cut:
            sync_directory(self.directory / self.workspace)

    def _ready(self) -> JournalFile:
        file = self._file
        if file is None or self._end >= self.limits.file_bytes or self._records >= self.limits.file_records:
            return self._rotate()
        return file

    def _rotate(self) -> JournalFile:
        if self.damage is not None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        number = self._file_no + 1 if self._file_no else FIRST_FILE
        path = file_path(self.directory, self.workspace, number)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        header = fmt.encode_header(FileHeader(number, self.seq + 1, self.workspace))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        file = JournalFile(path, self.workspace, number, self.seq + 1, fd)
        try:
            if os.write(fd, header) != len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
        if self._end > self._layer_start:
            self._spans.append(Span(self._file_no, self._layer_start, self._end))
        self._file, self._file_no, self._records = file, number, 0
        self._end = self._layer_start = self._written_out = len(header)
        self._unsynced.append(file)
        self._rotations += 1
        return file

    def _write(self, file: JournalFile, parts: list[bytes | memoryview], size: int) -> int:
        position = self._end
        try:
            written = os.pwritev(file.fd, parts, position)
            if written != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):  # else the next record overwrites it, or replay cuts it
                os.ftruncate(file.fd, position)
            raise
        self._end = position + size
        self._records += 1
        if self._end - self._written_out > WRITE_OUT_BYTES:
            self._write_out(file)
        return position

    def _write_out(self, file: JournalFile) -> None:
        """Have the kernel start writing the tail, in another thread: a busy disk makes that call wait.

        Two tails under way are the most; then the writer waits, so that a sync never has much to do.
        """
        if self._writing is not None:
            self._writing.result()
        start, self._written_out = self._written_out, self._end
        self._writing = _write_out_pool().submit(_start_writing, file, start, self._end - start)


class NoJournal(Journal):
    """Of a view that nothing may change: refuses every record, so that only a defect brings one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "", Position(0, 0, 0))

    def _ready(self) -> JournalFile:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@lru_cache(maxsize=1)
def _write_out_pool() -> ThreadPoolExecutor:
    """The process's threads for starting writes; made when first needed, so never before a fork."""
    return ThreadPoolExecutor(2, thread_name_prefix="cowfs-write-out")


def _start_writing(file: JournalFile, start: int, size: int) -> None:
    _libc.sync_file_range(file.fd, ctypes.c_int64(start), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def file_numbers(directory: Path, workspace: str) -> list[int]:
    """Numbers of the journal files that a workspace has, ascending; ``directory`` as in :func:`file_path`."""
    folder = directory / workspace
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name[:-8]) for name in names if name.endswith(".journal") and name[:-8].isdecimal())


def read_records(file: JournalFile, start: int, end: int) -> Iterator[tuple[int, int, Envelope]]:
    """(offset, end, envelope) of every record in [start, end) of a file.

    Raises Corrupt, naming file and offset, at the first byte that begins no whole record.
    """
    at = start
    buffer, buffer_at = b"", start
    while at < end:
        if at + fmt.RECORD_MAX > buffer_at + len(buffer) and buffer_at + len(buffer) < end:
            buffer = os.pread(file.fd, min(end - at, 2 * fmt.RECORD_MAX), at)
            buffer_at = at
        offset = at - buffer_at
        length = fmt.record_length(buffer[offset : offset + fmt.HEAD_BYTES])
        try:
            if not length or at + length > end:
                raise Corrupt("journal record: cut off")
            envelope = fmt.decode(buffer[offset : offset + length], file.file_no)
        except Corrupt as error:
            raise Corrupt(f"{file}, byte {at}: {error}") from None
        yield at, at + length, envelope
        at += length
