"""A burst of small files into one workspace of the real daemon: does its memory stay bounded, and at what rate?

A program makes ``--files`` files of 100 bytes in directories of 1,000, as fast as it can, from ``--writers`` processes.
Meanwhile, every half second, the resident memory of worker, settler and supervisor, what has been written and what
waits to be settled. ``files_per_s`` is the rate over the whole burst; ``settled_s`` how long settling went on after it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import common, daemons
from cowfs.client.store import Store

SAMPLE_SECONDS = 0.5
FILES_PER_DIRECTORY = 1000
CONTENT_BYTES = 100

WRITER = """
import os, sys
root, first, last, per, size = sys.argv[1], *map(int, sys.argv[2:])
data = b"x" * size
for number in range(first, last):
    if number == first or number % per == 0:
        os.makedirs(f"{root}/d{number // per}", exist_ok=True)
    fd = os.open(f"{root}/d{number // per}/f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, data)
    os.close(fd)
    if number % 100 == 99:
        os.write(1, b".")
"""


class Burst:
    """The writers; ``written`` counts what they have said that they made."""

    def __init__(self, root: Path, files: int, writers: int) -> None:
        bounds = [files * number // writers for number in range(writers + 1)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(root), str(a), str(b), str(FILES_PER_DIRECTORY), str(CONTENT_BYTES)],
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            for a, b in itertools.pairwise(bounds)
        ]
        self.written = 0
        for process in self._processes:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)

    def poll(self) -> bool:
        """Count what is new; whether any still writes. Raises CalledProcessError when one failed."""
        running = False
        for process in self._processes:
            assert process.stdout is not None
            with contextlib.suppress(BlockingIOError):
                while piece := process.stdout.read(65536):
                    self.written += 100 * len(piece)
            code = process.poll()
            running = running or code is None
            if code:
                raise subprocess.CalledProcessError(code, "writer")
        return running

    def end(self) -> None:
        """Cut it short."""
        for process in self._processes:
            process.terminate()
            process.wait()


def sample(client: Store, began: float, written: int) -> dict[str, Any]:
    """One line of the table: seconds, files, MiB resident of each process, layers that wait."""
    status = client.daemon()
    processes = {"supervisor": [status["supervisor"]], "worker": status["workers"], "settler": status["settlers"]}
    line: dict[str, Any] = {"s": round(time.monotonic() - began, 1), "files": written}
    for name, found in processes.items():
        with contextlib.suppress(OSError):  # a settler that has just ended
            line[f"{name}_mib"] = round(sum(common.resident_bytes(each["pid"]) for each in found) / 2**20)
    line["layers"] = status["queues"]["settle"]
    return line


def hold(client: Store, number: int) -> None:
    """Send the settler a signal: it stands still, or goes on."""
    for settler in client.daemon()["settlers"]:
        os.kill(int(settler["pid"]), number)


def measure(store: Path, files: int, writers: int, limit_s: float, hold_s: float) -> dict[str, Any]:
    """The whole burst, or what fits into ``limit_s`` seconds; the settler stands still for the first ``hold_s``."""
    daemons.make_store(store, [])
    with daemons.serving(store) as client:
        root = Path(client.create("work").path)
        began = time.monotonic()
        burst = Burst(root, files, writers)
        samples = [sample(client, began, 0)]
        held = hold_s > 0
        if held:
            hold(client, signal.SIGSTOP)
        while running := burst.poll():
            time.sleep(SAMPLE_SECONDS)
            samples.append(sample(client, began, burst.written))
            if held and time.monotonic() - began > hold_s:
                hold(client, signal.SIGCONT)
                held = False
            if time.monotonic() - began > limit_s:
                break
        took = time.monotonic() - began
        if running:
            burst.end()
        after = time.monotonic()
        while client.daemon()["queues"]["settle"] and time.monotonic() - after < limit_s:
            time.sleep(SAMPLE_SECONDS)
            samples.append(sample(client, began, burst.written))
        settled = time.monotonic() - after
        samples.append(sample(client, began, burst.written))
    peaks = {
        name: max(line.get(name, 0) for line in samples)
        for name in ("worker_mib", "settler_mib", "supervisor_mib", "layers")
    }
    return {
        "files": burst.written,
        "complete": not running,
        "seconds": round(took, 1),
        "files_per_s": round(burst.written / took),
        "settled_s": round(settled, 1),
        "peak": peaks,
        "samples": samples[:: max(len(samples) // 60, 1)],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2_000_000)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=400.0, help="seconds after which the burst is cut short")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds for which the settler stands still at first")
    options = parser.parse_args()
    with common.scratch() as directory:
        results = measure(directory / "store", options.files, options.writers, options.limit, options.hold)
    common.report("burst", results)


if __name__ == "__main__":
    main()
