"""Replay journal records into a state: crash recovery and settling are this one loop.

A journal is read strictly: its checksums find damage, but not what somebody wrote on purpose, so a record that does
not fit the state is Corrupt too, whatever the state said about it.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Any

from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from cowfs.formats.inode import NAME_MAX
from cowfs.layers.journal import JournalFile, read_records
from cowfs.view.apply import replay
from cowfs.view.state import State

SIZE_MAX = (1 << 63) - 1
"""Bytes in a file at most: what off_t can hold."""

_MISFITS = (errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENOSPC)


def replay_span(state: State, file: JournalFile, start: int, end: int) -> None:
    """Do everything that the records in [start, end) of ``file`` did. Raises Corrupt on a bad record."""
    for offset, _, envelope in read_records(file, start, end):
        if not isinstance(envelope.record, j.MARKERS):
            replay_record(state, envelope, file, offset)


def replay_record(state: State, envelope: j.Envelope, file: JournalFile, offset: int) -> None:
    """Do what the record at ``offset`` of ``file`` did. Raises Corrupt, naming both, when it does not fit."""
    record = envelope.record
    try:
        check = _CHECKS.get(type(record))
        if check is not None:
            check(record)
        replay(state, envelope.time, record, file, offset)
    except (Corrupt, OSError) as error:
        raise misfit(error, file, offset) from error


def misfit(error: Exception, file: JournalFile, offset: int) -> Exception:
    """What to raise for a record that failed with ``error``: Corrupt, saying where it lies; a failing disk as it is."""
    if isinstance(error, Corrupt):
        return Corrupt(f"{file}, byte {offset}: {error.message}", hint=error.hint)
    if isinstance(error, OSError):
        if error.errno not in _MISFITS:
            return error
        return Corrupt(f"{file}, byte {offset}: its record does not fit ({error.strerror})")
    return Corrupt(f"{file}, byte {offset}: its record does not fit ({error})")


def _name(record: Any) -> None:
    _check_name(record.name)


def _created(record: j.Create) -> None:
    _check_name(record.name)
    if not stat.S_ISREG(record.mode):
        raise Corrupt("a created file that is none")


def _names(record: j.Rename) -> None:
    _check_name(record.name)
    _check_name(record.new_name)


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Corrupt("an impossible file name")


def _end(record: Any) -> None:
    if record.offset + len(record.data) > SIZE_MAX:
        raise Corrupt("a file of impossible size")


def _cloned(record: j.CloneRange) -> None:
    if max(record.offset, record.source_offset) + max(record.length, len(record.data)) > SIZE_MAX:
        raise Corrupt("a file of impossible size")


def _allocated(record: j.Allocate) -> None:
    if record.offset + record.length > SIZE_MAX:
        raise Corrupt("a file of impossible size")


def _size(record: j.SetAttributes) -> None:
    if record.size > SIZE_MAX:
        raise Corrupt("a file of impossible size")


def _numbers(record: j.Writers) -> None:
    if len(record.inos) % 8:
        raise Corrupt("a list of inodes that ends within a number")


_CHECKS: dict[type, Callable[[Any], None]] = {
    j.Make: _name,
    j.Create: _created,
    j.Link: _name,
    j.Rename: _names,
    j.Write: _end,
    j.CloneRange: _cloned,
    j.Orphan: _end,
    j.Writers: _numbers,
    j.Allocate: _allocated,
    j.SetAttributes: _size,
}
"""What no view ever writes and no later check would find, by kind of record."""
