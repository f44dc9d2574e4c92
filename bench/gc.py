"""Garbage collection of a store with many snapshots, by the real daemon, while programs go on writing.

A workspace gets ``--snapshots`` snapshots, each with the same 20 files rewritten, and then nine of ten are removed.
What nothing needs is what a dry run says then; ``came_back`` is how much of it was removed.
The writers (``--writers`` processes that rewrite small files in a workspace of their own, which is checkpointed once a
second) are measured alone and during collections, in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench import common, daemons
from cowfs import connect
from cowfs.client.store import Store

FILES, CHANGED, SIZE = 2_000, 20, 8_192
KEPT_EVERY = 10

WRITER = """
import os, sys, time
root, seed = sys.argv[1], int(sys.argv[2])
os.makedirs(f"{root}/w{seed}", exist_ok=True)
data, done, last = os.urandom(4096), 0, time.monotonic()
while True:
    with open(f"{root}/w{seed}/f{done % 200}", "wb") as file:
        file.write(data)
    done += 1
    if time.monotonic() - last > 0.1:
        os.write(1, done.to_bytes(4, "little"))
        done, last = 0, time.monotonic()
"""


class Writers:
    """Processes that write; :meth:`rate` is files a second over an interval."""

    def __init__(self, root: Path, count: int) -> None:
        self._processes = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(root), str(seed)], stdout=subprocess.PIPE, bufsize=0)
            for seed in range(count)
        ]
        self._total, self._lock = 0, threading.Lock()
        self._readers = [threading.Thread(target=self._read, args=(each,), daemon=True) for each in self._processes]
        for reader in self._readers:
            reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while len(piece := process.stdout.read(4)) == 4:
            with self._lock:
                self._total += int.from_bytes(piece, "little")

    @property
    def total(self) -> int:
        """Files written so far. Raises CalledProcessError when one has failed."""
        for process in self._processes:
            if process.poll() is not None:
                raise subprocess.CalledProcessError(process.returncode, "writer")
        return self._total

    def end(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()


def make_snapshots(client: Store, count: int) -> None:
    """The workspace ``work`` with so many snapshots, all settled."""
    workspace = client.create("work")
    root = Path(workspace.path)
    for number in range(FILES):
        if number % 100 == 0:
            (root / f"d{number // 100}").mkdir()
        (root / f"d{number // 100}" / f"f{number}").write_bytes(os.urandom(SIZE))
    for turn in range(count):
        for each in range(CHANGED):
            number = each * 7
            (root / f"d{number // 100}" / f"f{number}").write_bytes(os.urandom(SIZE))
        workspace.checkpoint(f"turn {turn}")
    daemons.settled(client)


def segments_bytes(store: Path) -> int:
    """Bytes of segment files."""
    return sum(path.stat().st_size for path in (store / "segments").iterdir())


class Checkpoints:
    """One a second of the workspace that the writers write to, so that what they write is settled, too."""

    def __init__(self, store: Path, name: str) -> None:
        self._client, self._stop = connect(store), threading.Event()
        self._workspace = self._client.workspace(name)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self._workspace.checkpoint("of the writers")

    def end(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self._client.close()


def timed(writers: Writers, work: Any) -> tuple[float, float, Any]:
    """(files a second meanwhile, seconds, result)"""
    files, began = writers.total, time.monotonic()
    result = work()
    took = time.monotonic() - began
    return (writers.total - files) / took, took, result


def measure(store: Path, snapshots: int, writers: int, turns: int) -> dict[str, Any]:
    """Build, remove, collect while the writers write."""
    daemons.make_store(store, [])
    with daemons.serving(store) as client:
        make_snapshots(client, snapshots)
        doomed = [each.id for number, each in enumerate(client.workspace("work").log()) if number % KEPT_EVERY]
        parts = [doomed[number::turns] for number in range(turns)]
        alone: list[float] = []
        during: list[float] = []
        seconds: list[float] = []
        garbage = gone = freed = 0
        before = segments_bytes(store)
        root = Path(client.create("busy").path)
        running, snapshotting = Writers(root, writers), Checkpoints(store, "busy")
        try:
            time.sleep(2)
            for part in parts:
                rate, took, _ = timed(running, lambda: time.sleep(max(5.0, seconds[-1] if seconds else 0.0)))
                alone.append(rate)
                for snapshot in part:
                    client.remove(snapshot)
                garbage += client.collect(dry_run=True).bytes
                rate, took, result = timed(running, client.collect)
                during.append(rate)
                seconds.append(took)
                gone += result.bytes
                freed += result.freed_bytes
        finally:
            snapshotting.end()
            running.end()
        daemons.settled(client)
        left = client.collect(dry_run=True).bytes
        return {
            "snapshots": snapshots,
            "removed": len(doomed),
            "unreachable_bytes": garbage,
            "removed_bytes": gone,
            "came_back": round(gone / garbage, 4),
            "unreachable_afterwards_bytes": left,
            "freed_file_bytes": freed,
            "segments_before_bytes": before,
            "segments_after_bytes": segments_bytes(store),
            "collection_s": [round(each, 2) for each in seconds],
            "writers": {
                "processes": writers,
                "alone_files_per_s": round(statistics.median(alone)),
                "during_files_per_s": round(statistics.median(during)),
                "during_over_alone": round(statistics.median(during) / statistics.median(alone), 3),
                "n": turns,
            },
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=1_000)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5, help="collections, each after a part of the removals")
    options = parser.parse_args()
    with common.scratch() as directory:
        common.report("gc", measure(directory / "store", options.snapshots, options.writers, options.turns))


if __name__ == "__main__":
    main()
