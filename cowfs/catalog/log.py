"""The control log as a file: append, sync, cut a torn tail, rewrite. Knows entries, not what they mean.

One file, ``log``, in the control directory; ``log.new`` is a rewrite that did not get its name yet.

Power loss may keep later pages of an unsynced stretch and lose earlier ones, so each entry says up to which
sequence everything was durable when it was written. A bad entry is *damage* (Corrupt) when it was durable: it is
part of the file's base, or a good entry behind it says so. Otherwise it is a torn tail and is cut from there on;
if good entries are lost by that, the cut bytes are kept in ``cut-SEQUENCE`` for fsck to name.

Locks: ``append`` and ``rewrite`` are called by one thread at a time (Catalog's lock); ``sync`` by any thread. The
sync lock guards the descriptor's replacement and ``_durable``; it is taken inside Catalog's lock or alone.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cowfs.durable import sync_directory
from cowfs.errors import Corrupt, CowfsError, NoSpace, NotFound
from cowfs.formats.control_file import (
    ENTRY_HEADER_BYTES,
    ENTRY_MAGIC,
    FILE_HEADER_BYTES,
    FileHeader,
    decode_entry,
    decode_file_header,
    encode_entry,
    encode_file_header,
)

LOG, LOG_NEW = "log", "log.new"
_MEND = "restore the file from a copy of the store, or run: cowfs fsck --repair"


class ControlLog:
    """An open control log, positioned behind its last entry. ``cut_bytes``: torn tail cut at open."""

    def __init__(self, directory: Path, descriptor: int, header: FileHeader, size: int, last: int) -> None:
        self.directory = directory
        self.size = size
        self.last = last
        self.cut_bytes = 0
        self._fd = descriptor
        self._salt = header.salt
        self._durable = last
        self._broken = ""
        self._sync_lock = threading.Lock()

    @classmethod
    def create(cls, directory: Path, salt: int) -> None:
        """Make an empty log in ``directory`` (made too) unless there is one. Durable on return."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (directory / LOG).exists():
            _write_new(directory, FileHeader(salt, 1, 0), ())

    @classmethod
    def replace(cls, directory: Path, salt: int, first: int, payloads: Iterable[bytes]) -> None:
        """Put a log of these entries, from sequence ``first`` on, in the place of one that nobody has open."""
        entries = list(payloads)
        _write_new(directory, FileHeader(salt, first, first + len(entries) - 1), entries)

    @classmethod
    def open(cls, directory: Path) -> tuple[ControlLog, list[tuple[int, bytes]]]:
        """The log, and (offset, payload) of every entry. Cuts a torn tail.

        Raises :class:`NotFound` without a log, :class:`Corrupt` naming the offset of a damaged entry.
        """
        (directory / LOG_NEW).unlink(missing_ok=True)
        try:
            fd = os.open(directory / LOG, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound(f"no control log in {directory}", hint="cowfs init makes a store") from None
        try:
            data = _read_all(fd)
            header = decode_file_header(data)
            entries, end = _entries(header, data)
            last = header.first + len(entries) - 1
            log = cls(directory, fd, header, end, last)
            if end < len(data):
                log._cut(data)
            # What was read may never have been synced, nor the name of a rewritten log: from here on it is durable.
            os.fsync(fd)
            sync_directory(directory)
        except BaseException:
            os.close(fd)
            raise
        return log, entries

    def _cut(self, data: bytes) -> None:
        if next(_good_behind(self._salt, data, self.size + 1, self.last + 1), None) is not None:
            _write_file(self.directory / f"cut-{self.last + 1}", (data[self.size :],))
        os.ftruncate(self._fd, self.size)
        self.cut_bytes = len(data) - self.size

    def append(self, payload: bytes) -> None:
        """Write one entry behind the last. Not durable until :meth:`sync`; nothing is written when this raises."""
        self._check()
        entry = encode_entry(self._salt, self.last + 1, self._durable, payload)
        try:
            _write(self._fd, entry, self.size)
        except OSError as error:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError as worse:
                self._broken = f"cannot take back a failed write: {worse.strerror}"
            raise _failed(error) from error
        self.size += len(entry)
        self.last += 1

    def sync(self) -> None:
        """Make every entry appended so far durable. One fdatasync serves all threads that wait for it."""
        target = self.last
        with self._sync_lock:
            self._check()
            if self._durable >= target:
                return
            target = self.last
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                # The kernel may have dropped the dirty pages: only reading the file again tells what is there.
                self._broken = f"sync failed: {error.strerror}"
                raise _failed(error) from error
            self._durable = target

    def rewrite(self, payloads: Iterable[bytes]) -> None:
        """Replace the whole log by ``payloads``. Durable on return; the old log stays whole if this raises."""
        self._check()
        entries = list(payloads)
        header = FileHeader(self._salt, self.last + 1, self.last + len(entries))
        try:
            size = _write_new(self.directory, header, entries)
            fd = os.open(self.directory / LOG, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._broken = _whether_replaced(self.directory, self._fd)
            raise _failed(error) from error
        with self._sync_lock:
            os.close(self._fd)
            self._fd, self.size, self.last, self._durable = fd, size, header.base, header.base

    def close(self) -> None:
        """Sync, unless the log is broken, and close. A second call does nothing."""
        if self._fd < 0:
            return
        try:
            if not self._broken:
                self.sync()
        finally:
            with self._sync_lock:
                os.close(self._fd)
                self._fd = -1

    def _check(self) -> None:
        if self._fd < 0:
            raise CowfsError("the control log is closed")
        if self._broken:
            raise CowfsError(f"the control log takes no more entries: {self._broken}", hint="restart the daemon")


def _entries(header: FileHeader, data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Every good entry from the start, and the offset behind the last. Raises Corrupt when that is damage."""
    entries: list[tuple[int, bytes]] = []
    at, sequence = FILE_HEADER_BYTES, header.first
    while at < len(data):
        try:
            entry, payload = decode_entry(header.salt, data, at)
        except Corrupt:
            break
        if entry.sequence != sequence:
            break
        entries.append((at, payload))
        at += ENTRY_HEADER_BYTES + entry.size
        sequence += 1
    durable = max(_good_behind(header.salt, data, at + 1, sequence), default=0) if at < len(data) else 0
    if sequence <= max(header.base, durable):
        raise Corrupt(
            f"control log: entry {sequence} at offset {at} is damaged",
            hint=_MEND,
        )
    return entries, at


def _good_behind(salt: int, data: bytes, at: int, bad: int) -> Iterator[int]:
    """``durable`` of every good entry from offset ``at`` on whose sequence lies behind the ``bad`` one."""
    while (at := data.find(ENTRY_MAGIC, at)) >= 0:
        try:
            entry, _ = decode_entry(salt, data, at)
        except Corrupt:
            at += 1
            continue
        if entry.sequence > bad:
            yield entry.durable
        at += ENTRY_HEADER_BYTES + entry.size


def whole_entries(data: bytes, salt: int) -> Iterator[tuple[int, bytes]]:
    """(sequence, payload) of every whole entry in a damaged log, in order. ``salt``: in case its header is damaged."""
    with suppress(Corrupt):
        salt = decode_file_header(data).salt
    at, last = 0, 0
    while (at := data.find(ENTRY_MAGIC, at)) >= 0:
        try:
            entry, payload = decode_entry(salt, data, at)
        except Corrupt:
            at += 1
            continue
        if entry.sequence > last:
            yield entry.sequence, payload
            last = entry.sequence
        at += ENTRY_HEADER_BYTES + entry.size


def _read_all(fd: int) -> bytes:
    data = bytearray()
    while part := os.pread(fd, 1 << 24, len(data)):
        data += part
    return bytes(data)


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _write_file(path: Path, parts: Iterable[bytes]) -> int:
    """A new file at ``path``, synced. Bytes written."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    size = 0
    try:
        for part in parts:
            _write(fd, part, size)
            size += len(part)
        os.fsync(fd)
    finally:
        os.close(fd)
    return size


def _write_new(directory: Path, header: FileHeader, payloads: Iterable[bytes]) -> int:
    """A whole new log under its final name, durable. Bytes written."""
    entries = (
        encode_entry(header.salt, sequence, sequence - 1, payload)
        for sequence, payload in enumerate(payloads, header.first)
    )
    new = directory / LOG_NEW
    try:
        size = _write_file(new, (encode_file_header(header), *entries))
        os.rename(new, directory / LOG)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(directory)
    return size


def _whether_replaced(directory: Path, fd: int) -> str:
    """After a failed rewrite: empty while ``log`` is still the open file, else why it must not be used."""
    try:
        same = os.path.samestat(os.stat(directory / LOG), os.fstat(fd))
    except OSError:
        same = False
    return "" if same else "it was replaced and could not be opened again"


def _failed(error: OSError) -> CowfsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("no space left for the control log", hint="remove snapshots or workspaces, or run cowfs gc")
    return CowfsError(f"control log: {error.strerror}")
