"""What a worker says of itself at each beat: which mount has not got on with its requests, and since how many beats.

Progress is counted, not timed: the request that a reader is at, or those that wait in the kernel unread, are still the
same as at the last beat.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol


class Progress(NamedTuple):
    """``requests`` read so far; ``owed``: one of them, or one that was never read, is unanswered."""

    requests: int
    owed: bool


class Session(Protocol):
    """A mount that is served."""

    def progress(self) -> Progress:
        """How far it is."""


class Pulse(NamedTuple):
    """``beats``: for how many in a row ``stuck`` has not got on; 0 and "" when all mounts have."""

    requests: int
    beats: int
    stuck: str


class Pulses:
    """One :meth:`take` per beat, by one thread at a time."""

    def __init__(self) -> None:
        self._last: Mapping[str, tuple[int, int]] = {}

    def take(self, sessions: Iterable[tuple[str, Session]]) -> Pulse:
        """The state of (name, session) pairs, compared with the last call."""
        now: dict[str, tuple[int, int]] = {}
        total = 0
        for name, session in sessions:
            requests, owed = session.progress()
            total += requests
            before, beats = self._last.get(name, (-1, 0))
            now[name] = (requests, beats + 1 if owed and requests == before else 0)
        self._last = now
        stuck, (_, beats) = max(now.items(), key=lambda each: each[1][1], default=("", (0, 0)))
        return Pulse(total, beats, stuck if beats else "")
