"""``python -m tests.conformance.fsx``: random operations on the data of one file, on cowfs and on ext4 at once.

In the manner of fsx: reads, writes, O_DIRECT, shared mappings, truncations, holes, copies and re-opening, and between
them checkpoints, restores and forks of the workspace. Everything is compared with bytes in memory after each step. The
operations run in a process of their own (:mod:`.hand`): a page fault must not be served by the process that waits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from tests.conformance.suite import native_directory
from tests.support.lab import InlineSettler
from tests.support.live import Live

SIZE_MAX = 600_000
FORKS_MAX = 20
SNAPSHOTS_MAX = 8
HISTORY = 60

DATA = (
    ("write", 18), ("append", 4), ("read", 14), ("mmap write", 12), ("mmap read", 8), ("direct write", 6),
    ("direct read", 5), ("truncate", 9), ("punch", 7), ("zero", 6), ("allocate", 5), ("copy", 8), ("reopen", 5),
    ("fsync", 3), ("msync", 4), ("holes", 5), ("sparse", 4),
)  # fmt: skip
VERBS = (("checkpoint", 4), ("restore", 4), ("fork", 1), ("settle", 1))
_SEGMENT_BYTES = 4 << 20  # a segment that is gone on with is read again: not too much at a time


class Diverged(AssertionError):
    """The filesystems, or the file and memory, are not the same any more."""


class Hand:
    """The process that does the operations in one directory."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.conformance.hand", str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, *step: Any) -> Any:
        """One step; its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Diverged(f"the process that does the operations died of {self._process.wait()} at {step[:4]}")
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Exerciser:
    """One run from ``seed``; ``counts`` says how often what was done."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.history: list[str] = []
        self._random = Random(seed)
        self._directory = directory
        self._stack = ExitStack()
        self._size = self._made = 0
        self._names: list[str] = []
        self._snapshots: dict[str, list[tuple[str, str, int]]] = {}
        self._native = Path()

    def run(self, seconds: float, steps: int = 1 << 30) -> None:
        """Go on for so long, or so many steps."""
        with self._stack:
            self._native = self._stack.enter_context(native_directory(self._directory / "native"))
            live = self._stack.enter_context(_closing(Live(self._directory, inline=True)))
            live.engine.settler = InlineSettler(live.engine, _SEGMENT_BYTES)
            live.engine.create("w0")
            self._take("w0", live)
            until = time.monotonic() + seconds
            while steps and time.monotonic() < until:
                steps -= 1
                self._step(live)
            self._mounted.close()
            self._other.close()

    def _take(self, name: str, live: Live) -> None:
        """Work in a workspace from now on."""
        self._name = name
        self._mounted = Hand(live.mount(name))
        if not self._names:
            self._other = Hand(self._native)
        self._names.append(name)
        self._snapshots.setdefault(name, [])

    def _step(self, live: Live) -> None:
        kinds, weights = zip(*DATA, *VERBS, strict=True)
        kind = self._random.choices(kinds, weights)[0]
        if kind in dict(VERBS):
            self._verb(kind, live)
        else:
            self.counts[kind] += 1
            self._both(kind, *self._arguments())
        self._both("check")

    def _arguments(self) -> tuple[int, int, int, int]:
        """(offset, length, another offset, seed of the data)"""
        random = self._random
        offset = random.choice((random.randrange(SIZE_MAX), random.randrange(self._size + 1)))
        length = random.choice((random.randrange(1, 200), random.randrange(1, 9000), random.randrange(1, 150_000)))
        if random.randrange(3) == 0:
            offset, length = offset & ~4095, -(-length // 4096) * 4096
        length = max(1, min(length, SIZE_MAX - offset))
        return offset, length, random.randrange(SIZE_MAX - length + 1), random.randrange(1 << 30)

    def _both(self, kind: str, *arguments: int) -> None:
        self.history.append(f"{kind} {' '.join(map(str, arguments))}")
        del self.history[:-HISTORY]
        expected, found = self._other.do(kind, *arguments), self._mounted.do(kind, *arguments)
        if expected != found:
            raise Diverged(f"{kind} {arguments}: ext4 {expected}, cowfs {found}")
        if kind == "check":
            if expected["wrong"]:
                raise Diverged(f"not what was written: {expected['wrong']}")
            self._size = expected["size"]

    def _verb(self, kind: str, live: Live) -> None:
        snapshots = self._snapshots[self._name]
        if kind == "settle":
            live.engine.settle()
            self.history.append("settle")
            self.counts["settle"] += 1
            return
        if kind == "checkpoint" or not snapshots:
            made = live.engine.checkpoint(self._name, "fsx", allow_empty=True)
            self._made = number = self._made + 1
            self._keep(number)
            snapshots.append((made.snapshot.id, self._name, number))
            del snapshots[:-SNAPSHOTS_MAX]
            self.history.append(f"checkpoint {number}")
            self.counts["checkpoint"] += 1
        elif kind == "restore":
            snapshot, _, number = self._random.choice(snapshots)
            live.engine.restore(self._name, snapshot, discard=bool(self._random.randrange(2)))
            self._back(number)
            self.history.append(f"restore {number}")
            self.counts["restore"] += 1
        elif len(self._names) < FORKS_MAX:
            snapshot, _, number = self._random.choice(snapshots)
            name = f"w{len(self._names)}"
            live.engine.fork(snapshot, name)
            self._mounted.close()
            live.unmount(self._name)
            self._take(name, live)
            self._mounted.do("adopt", self._other.do("saved", number))
            self._other.do("back", number, 1)
            self.history.append(f"fork {number}")
            self.counts["fork"] += 1

    def _keep(self, number: int) -> None:
        """What a restore must bring back; the file's dirty mapped pages are part of it."""
        for hand in (self._other, self._mounted):
            hand.do("keep", number)

    def _back(self, number: int) -> None:
        self._other.do("back", number, 1)
        self._mounted.do("back", number, 0)


class _closing:
    """Close a :class:`Live`, whatever happens; its own check of the store counts only when nothing else failed."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __enter__(self) -> Live:
        return self._live

    def __exit__(self, *_: object) -> None:
        self._live.close()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-fsx-") as scratch:
        exerciser = Exerciser(Path(scratch), options.seed)
        wrong = ""
        try:
            exerciser.run(options.seconds)
        except Diverged as error:
            wrong = str(error)
            print("\n".join(exerciser.history), file=sys.stderr)
    counts = dict(sorted(exerciser.counts.items()))
    print(json.dumps({"seed": options.seed, "wrong": wrong, "operations": sum(counts.values()), **counts}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
