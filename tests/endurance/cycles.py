"""Cycles of write, checkpoint, restore, fork, delete through a daemon, and what its processes and files come to."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cowfs.client import connect
from cowfs.client.launch import wait_stopped
from cowfs.errors import Busy
from tests.cli.live import Live
from tests.torture.killer import KINDS, processes

T = TypeVar("T")
FILES, CHANGED, FILE_BYTES = 200, 5, 3000
MOUNT_EVERY = 5
"""In every so manieth cycle the fork is mounted and written to."""

QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Process:
    """One process of the daemon. ``memory``: resident bytes that are its own."""

    memory: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Figures:
    """After ``cycles`` cycles, with nothing under way. ``files``: number by folder of the store; ``disk`` in bytes.

    ``caches``: bytes in the workers' bounded caches. ``latency``: median milliseconds of each verb since the figures
    before.
    """

    cycles: int
    processes: dict[str, Process]
    disk: int
    files: dict[str, int]
    control_bytes: int
    caches: dict[str, int]
    latency: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"processes": {name: vars(each) for name, each in self.processes.items()}}


def process(pid: int) -> Process:
    """What a process has. Raises FileNotFoundError, ProcessLookupError when it has ended."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    memory = (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return Process(memory, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))


class Cycles:
    """A store below ``directory`` with one mounted workspace; :meth:`run` as often as one likes, then :meth:`close`.

    ``cache``: of each worker, as ``cowfs daemon start`` takes it.
    """

    def __init__(self, directory: Path, cache: str) -> None:
        self.live = Live(directory / "store")
        self.live.cowfs("init")
        self.live.cowfs("daemon", "start", "--workers", "2", "--cache", cache)
        self.client = connect(self.live.store)
        self.workspace = self.client.create("ws")
        self._root = Path(self.workspace.path)
        self._done = 0
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(FILES):
            self._write(self._root, number, b"first")
        self._last = self.workspace.checkpoint("first").snapshot.id

    def _write(self, root: Path, number: int, text: bytes) -> None:
        (root / f"f{number % FILES}").write_bytes(text.ljust(FILE_BYTES, b"."))

    def _timed(self, verb: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        done = call()
        self._took[verb].append(time.perf_counter() - began)
        return done

    def run(self, cycles: int) -> None:
        """So many cycles: each makes and removes a snapshot, a snapshot before a restore and a fork."""
        for number in range(self._done, self._done + cycles):
            self._cycle(number)
        self._done += cycles

    def _cycle(self, number: int) -> None:
        for changed in range(CHANGED):
            self._write(self._root, number * CHANGED + changed, b"%d" % number)
        (self._root / "cycle").write_text(str(number))
        snapshot = self._timed("checkpoint", lambda: self.workspace.checkpoint(f"cycle {number}")).snapshot.id
        (self._root / "cycle").write_text("to be undone")
        (self._root / f"new-{number}").mkdir()
        restored = self._timed("restore", lambda: self.workspace.restore(snapshot))
        assert restored.undo is not None
        assert (self._root / "cycle").read_text() == str(number)
        assert not (self._root / f"new-{number}").exists()
        fork = f"fork-{number}"
        self._timed("fork", lambda: self.client.fork(snapshot, fork))
        if number % MOUNT_EVERY == 0:
            root = Path(self.client.mount(fork))
            assert (root / "cycle").read_text() == str(number)
            (root / "cycle").write_text("in the fork")
            self._patient(lambda: self.client.umount(fork))
        self._timed("rm fork", lambda: self._patient(lambda: self.client.remove(fork)))
        self._timed("rm snapshot", lambda: self.client.remove(restored.undo.id if restored.undo else ""))
        self.client.remove(self._last)
        self._last = snapshot

    def _patient(self, call: Callable[[], T]) -> T:
        """Whoever looks over the mounts of this machine may be in this one for a moment."""
        until = time.monotonic() + QUIET_SECONDS
        while True:
            try:
                return call()
            except Busy:
                if time.monotonic() > until:
                    raise

    def _settle(self) -> None:
        """Wait until nothing is left to settle: the settler has the lowest priority, but it must come forward."""
        least, until = 1 << 30, 0.0
        while left := self.client.daemon()["queues"]["settle"]:
            if left < least:
                least, until = left, time.monotonic() + QUIET_SECONDS
            assert time.monotonic() < until, f"the settler does not come forward: {left} layers are left"
            threading.Event().wait(0.02)

    def figures(self) -> Figures:
        """What there is when all is settled and collected."""
        self._settle()
        self._patient(self.client.collect)
        found = {
            f"{kind} {number}": process(pid)
            for kind, pids in processes(self.live.store).items()
            for number, pid in enumerate(sorted(pids))
            if kind in KINDS
        }
        files: dict[str, int] = {}
        for folder in sorted(path for path in self.live.store.iterdir() if path.is_dir()):
            files[folder.name] = sum(1 for path in folder.rglob("*") if path.is_file())
        disk = sum(path.lstat().st_blocks * 512 for path in self.live.store.rglob("*") if path.is_file())
        latency = {verb: round(statistics.median(took) * 1000, 3) for verb, took in self._took.items()}
        self._took.clear()
        caches = {name: counts["bytes"] for name, counts in self.client.daemon()["cache"].items()}
        control = (self.live.store / "control" / "log").stat().st_size
        return Figures(self._done, found, disk, files, control, caches, latency)

    def close(self) -> str:
        """Stop the daemon; what fsck says."""
        try:
            supervisor = int(self.client.daemon()["supervisor"]["pid"])
            wait_stopped(supervisor, lambda: self.client.stop_daemon(force=True))
            self.client.close()
        finally:
            self.live.end()
        return self.live.cowfs("fsck")
