"""Kills the processes of one daemon at random moments, by their ids."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

KINDS = ("keeper", "supervisor", "worker", "settler")
_WORDS = {"run": "keeper", "supervise": "supervisor", "cowfs_daemon.worker": "worker", "cowfs.settle": "settler"}


def processes(store: Path) -> dict[str, list[int]]:
    """The ids of a store's daemon processes, by kind."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            kind = next((_WORDS[word] for word in words if word in _WORDS), None)
            if kind is not None and (str(store) in words or kind == "settler"):
                found[kind].append(int(entry))
    found["settler"] = [pid for pid in found["settler"] if parents.get(pid) in found["supervisor"]]
    return found


def kill(pid: int) -> bool:
    """Kill a process; whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Killer:
    """A thread that kills workers, settlers and supervisors between :meth:`start` and :meth:`stop`."""

    def __init__(self, store: Path, random: Random, per_second: float) -> None:
        self.kills: Counter[str] = Counter()
        self.log: list[str] = []
        self._store = store
        self._random = random
        self._rate = per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")

    def _run(self) -> None:
        while not self._stop.wait(min(self._random.expovariate(self._rate), 5.0)):
            kind = self._random.choices(("worker", "settler", "supervisor"), (6, 2, 2))[0]
            pids = processes(self._store)[kind]
            if pids and kill(self._random.choice(pids)):
                self.kills[kind] += 1
                self.log.append(f"{time.time():.3f} killed a {kind}")

    def everything(self) -> None:
        """Kill all of the daemon at once, its keeper first."""
        while any(found := processes(self._store).values()):
            for kind, pids in zip(KINDS, found, strict=True):
                for pid in pids:
                    self.kills[kind] += kill(pid)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Return when it kills no more."""
        self._stop.set()
        self._thread.join()
