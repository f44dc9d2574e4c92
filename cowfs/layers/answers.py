"""What the answer to a request needs that was carried out and perhaps not answered: read from the journal.

A transport answers each request before it takes the next, so of everything journaled under request keys, only the
last request can be without its answer when a process dies. Its successor must not carry it out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cowfs.formats import journal as j

NOTHING, MADE, DONE, ATTRIBUTES, COUNT = range(5)
"""What a request has journaled: nothing that its answer says, a name for ``ino``, what is answered by plain success,
attributes of ``ino``, ``size`` bytes."""


class Answer(NamedTuple):
    """Of the request with this key. ``kind`` is one of the above."""

    connection: int
    unique: int
    kind: int
    ino: int = 0
    size: int = 0


_DONE: Final = (j.Unlink, j.Rename, j.Allocate, j.SetXattr, j.RemoveXattr)


def answer_to(records: Sequence[j.Envelope]) -> Answer:
    """The answer to the request that wrote ``records``, all with its key, at least one."""
    connection, unique = records[0].connection, records[0].unique
    found = Answer(connection, unique, NOTHING)
    for record in (envelope.record for envelope in records):
        if isinstance(record, j.Make | j.Create | j.Tmpfile | j.Link):
            return Answer(connection, unique, MADE, record.ino)
        if isinstance(record, j.Write):
            return Answer(connection, unique, COUNT, record.ino, len(record.data))
        if isinstance(record, j.CloneRange):
            return Answer(connection, unique, COUNT, record.ino, record.length)
        if isinstance(record, _DONE):
            return Answer(connection, unique, DONE)
        if isinstance(record, j.SetAttributes):
            found = Answer(connection, unique, ATTRIBUTES, record.ino)
    return found
