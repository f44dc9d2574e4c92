"""Replay journal records into a state: crash recovery and settling are this one loop."""

from __future__ import annotations

from cowfs.formats import journal as j
from cowfs.layers.journal import JournalFile, read_records
from cowfs.view.apply import replay
from cowfs.view.state import State

MARKERS = (j.Checkpoint, j.Freeze, j.Restore, j.Invalidated)
"""Records that say where layers begin and end; they change no inode."""


def replay_span(state: State, file: JournalFile, start: int, end: int) -> None:
    """Do everything that the records in [start, end) of ``file`` did. Raises Corrupt on a bad record."""
    for offset, _, envelope in read_records(file, start, end):
        if not isinstance(envelope.record, MARKERS):
            replay(state, envelope.time, envelope.record, file, offset)
