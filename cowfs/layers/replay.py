"""Replay journal records into a state: crash recovery and settling are this one loop.

A journal is read strictly: its checksums find damage, but not what somebody wrote on purpose, so a record that does
not fit the state is Corrupt too, whatever the state said about it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from cowfs.formats.inode import NAME_MAX
from cowfs.layers.journal import JournalFile, read_records
from cowfs.view.apply import replay
from cowfs.view.state import State

MARKERS = (j.Checkpoint, j.Freeze, j.Restore, j.Invalidated)
"""Records that say where layers begin and end; they change no inode."""

SIZE_MAX = (1 << 63) - 1
"""Bytes in a file at most: what off_t can hold."""

_MISFITS = (errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENOSPC)


def replay_span(state: State, file: JournalFile, start: int, end: int) -> None:
    """Do everything that the records in [start, end) of ``file`` did. Raises Corrupt on a bad record."""
    for offset, _, envelope in read_records(file, start, end):
        if not isinstance(envelope.record, MARKERS):
            replay_record(state, envelope, file, offset)


def replay_record(state: State, envelope: j.Envelope, file: JournalFile, offset: int) -> None:
    """Do what the record at ``offset`` of ``file`` did. Raises Corrupt, naming both, when it does not fit."""
    with placed(file, offset):
        _check(envelope.record)
        replay(state, envelope.time, envelope.record, file, offset)


@contextmanager
def placed(file: JournalFile, offset: int) -> Iterator[None]:
    """Say where the record lies that turns out not to fit: Corrupt, and errors that only such a record causes."""
    try:
        yield
    except Corrupt as error:
        raise Corrupt(f"{file}, byte {offset}: {error.message}", hint=error.hint) from error
    except UnicodeDecodeError as error:
        raise Corrupt(f"{file}, byte {offset}: an id that is not text") from error
    except OSError as error:
        if error.errno not in _MISFITS:
            raise
        raise Corrupt(f"{file}, byte {offset}: its record does not fit ({error.strerror})") from error


def _check(record: j.Record) -> None:
    """Refuse what no view ever writes and no later check would find."""
    if isinstance(record, j.Write | j.CloneRange):
        end = record.offset + len(record.data)
    elif isinstance(record, j.Make | j.Link):
        _check_name(record.name)
        return
    elif isinstance(record, j.Rename):
        _check_name(record.name)
        _check_name(record.new_name)
        return
    elif isinstance(record, j.SetAttributes):
        end = record.size
    elif isinstance(record, j.Allocate):
        end = record.offset + record.length
    elif isinstance(record, j.Orphan):
        end = record.offset + len(record.data)
    else:
        return
    if end > SIZE_MAX:
        raise Corrupt("a file of impossible size")


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Corrupt("an impossible file name")
