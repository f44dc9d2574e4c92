"""Counts of one session's requests: each by opcode, and the time of some.

Written by the thread that answers, without a lock, so that counting costs next to nothing: a count may be lost when
two threads answer at once.
"""

from __future__ import annotations

from typing import Final

from cowfs_daemon.fuse import protocol

BUCKETS: Final = 20
"""Bucket n counts times below 2**n microseconds, the last one everything above too."""


class Counts:
    """``requests``: by opcode; ``times``: per bucket, of those that were timed; ``seconds``: their sum."""

    __slots__ = ("requests", "seconds", "times")

    def __init__(self) -> None:
        self.requests = [0] * protocol.OPCODES
        self.times: dict[int, list[int]] = {}
        self.seconds: dict[int, float] = {}

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests)

    def time(self, opcode: int, seconds: float) -> None:
        """A request took so long; at most one table per opcode comes of it."""
        opcode = opcode if opcode < protocol.OPCODES else 0
        buckets = self.times.get(opcode)
        if buckets is None:
            buckets = self.times[opcode] = [0] * BUCKETS
        buckets[min(int(seconds * 1e6).bit_length(), BUCKETS - 1)] += 1
        self.seconds[opcode] = self.seconds.get(opcode, 0.0) + seconds
