"""Whether a process that does not answer is at work, or waits for a processor: then it is slow, and does not hang.

Standard library only: the keeper uses it.
"""

import os
from dataclasses import dataclass

BUSY_SHARE = 0.25
"""A process is at work when it ran, or waited for a processor, for so much of the time (threads added up)."""


def active_seconds(pid: int) -> float:
    """Seconds for which threads of a process have run or waited for a processor; 0 when it is gone.

    Stopped, sleeping and waiting for a disk do not count. Of threads that have ended nothing is known.
    """
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/schedstat", "rb") as file:
                    ran, waited, *_ = file.read().split()
            except OSError:  # it has just ended
                continue
            total += int(ran) + int(waited)
    except OSError:
        return 0.0
    return total / 1e9


@dataclass(frozen=True, slots=True)
class Limits:
    """After how many beats without progress a process is ended: one that is idle, one that is at work."""

    idle_beats: int = 15
    busy_beats: int = 150


class Silence:
    """Counts the beats since a process last showed progress. Beats, not seconds: a machine may stand still itself."""

    def __init__(self, pid: int, beat_seconds: float, limits: Limits | None = None) -> None:
        self._pid = pid
        self._beat_seconds = beat_seconds
        self._limits = limits or Limits()
        self.beats = 0
        self._active = active_seconds(pid)

    def progress(self) -> None:
        """It has shown life."""
        self.beats = 0
        self._active = active_seconds(self._pid)

    def missed(self, beats: int | None = None) -> bool:
        """One more beat without progress, or so many in all; whether it hangs."""
        self.beats = self.beats + 1 if beats is None else beats
        if self.beats < self._limits.idle_beats:
            return False
        busy = active_seconds(self._pid) - self._active >= BUSY_SHARE * self.beats * self._beat_seconds
        return not busy or self.beats >= self._limits.busy_beats
