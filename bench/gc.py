"""What garbage collection gives back, and what it takes from programs that write meanwhile.

A workspace gets many snapshots, each with some files written anew; then a rule lets most of them go and ``gc --prune``
collects, while programs in two other workspaces make and overwrite files. What they do in each tenth of a second is
compared with what they did before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import common, daemons
from cowfs.client.store import Store

_WRITER = """
import os, sys, time
directory = sys.argv[1]
print("ready", flush=True)
n = 0
while True:
    with open(f"{directory}/{n % 500}", "wb") as file:
        file.write(os.urandom(4096))
    n += 1
    if not n % 20:
        print(n, time.monotonic(), flush=True)
"""


class Writer:
    """A program that writes files in a workspace; ``log`` is where it says how far it is."""

    def __init__(self, root: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            words = [sys.executable, "-c", _WRITER, str(root)]
            self._process = subprocess.Popen(words, stdout=out, env=common.environment())

    def stop(self) -> list[tuple[int, float]]:
        """End it; (files written, when) of all that it said."""
        self._process.kill()
        self._process.wait()
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [(int(words[0]), float(words[1])) for words in lines if len(words) == 2]


def rate(said: list[tuple[int, float]], began: float, ended: float) -> float:
    """Files a second between two moments."""
    within = [each for each in said if began <= each[1] <= ended]
    if len(within) < 2:
        return 0.0
    return (within[-1][0] - within[0][0]) / (within[-1][1] - within[0][1])


def fill(client: Store, snapshots: int, files: int, size: int) -> None:
    """``work`` with so many snapshots; before each, so many of its files are written anew."""
    work = client.create("work")
    root = Path(work.path)
    for number in range(snapshots):
        for file in range(files):
            (root / f"f{(number * files + file) % (files * 10)}").write_bytes(os.urandom(size))
        work.checkpoint(f"number {number}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--keep", type=int, default=50)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--size", type=int, default=65_536)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with common.scratch() as directory:
        daemons.make_store(directory / "store", [])
        with daemons.serving(directory / "store") as client:
            fill(client, options.snapshots, options.files, options.size)
            daemons.settled(client)
            before = client.stat()
            writers = [
                Writer(Path(client.create(f"load{number}").path), directory / f"writer{number}") for number in range(2)
            ]
            began = time.monotonic()
            time.sleep(options.seconds)
            middle = time.monotonic()
            client.workspace("work").set({"retention.last": options.keep})
            done = client.collect(prune=True)
            ended = time.monotonic()
            said = [writer.stop() for writer in writers]
            daemons.settled(client)
            left = client.collect(dry_run=True)
        results: dict[str, Any] = vars(options) | {
            "stored_bytes_before": before.stored_bytes,
            "snapshots_removed": len(done.pruned),
            "collection_seconds": ended - middle,
            "unreachable_bytes": done.bytes,
            "bytes_of_files_gone": done.freed_bytes,
            "share_that_came_back": done.freed_bytes / done.bytes,
            "unreachable_bytes_left": left.bytes,
            "files_a_second_before": [rate(each, began, middle) for each in said],
            "files_a_second_meanwhile": [rate(each, middle, ended) for each in said],
        }
    common.report("gc", results)


if __name__ == "__main__":
    main()
