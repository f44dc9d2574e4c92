"""``python -m tests.conformance.fsx``: random operations on the data of two files, on cowfs and on ext4 at once.

In the manner of fsx: reads, writes, O_DIRECT, mappings, truncations, holes, copies and re-opening, and between them
checkpoints, restores and forks of the workspace. Everything is compared with bytes in memory after each step. The
operations run in a process of their own (:mod:`.hand`): a page fault must not be served by the process that waits.

With ``--transport pyfuse3`` the mount is one in the foreground.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from cowfs.view.view import CLONE_MIN
from tests.conformance.fsx_worlds import FIRST, WORLDS, World
from tests.conformance.hand import NAMES, PAGE
from tests.conformance.suite import native_directory

SIZE_MAX = 600_000
FORKS_MAX = 20
SNAPSHOTS_MAX = 8
HISTORY = 60
FILES = range(len(NAMES))

DATA = (
    ("write", 18), ("append", 4), ("read", 14), ("mmap write", 12), ("mmap read", 8), ("private", 5),
    ("direct write", 6), ("direct read", 5), ("truncate", 9), ("punch", 7), ("zero", 6), ("allocate", 5), ("copy", 8),
    ("copy over", 8), ("reopen", 5), ("fsync", 3), ("msync", 4), ("holes", 5), ("sparse", 4),
)  # fmt: skip
VERBS = (("checkpoint", 4), ("restore", 4), ("fork", 1), ("settle", 1))
COPIES = ("copy", "copy over")


class Diverged(AssertionError):
    """The filesystems, or a file and memory, are not the same any more."""


class Hand:
    """The process that does the operations in one directory."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.conformance.hand", str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, *step: Any) -> Any:
        """One step (what, number of the file, arguments); its result."""
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
    """One run from ``seed``; ``counts`` says how often what was done, "by reference": copies that took no journal."""

    def __init__(self, directory: Path, seed: int, transport: str = "kernel") -> None:
        self.counts: Counter[str] = Counter()
        self.history: list[str] = []
        self._random = Random(seed)
        self._directory = directory
        self._transport = WORLDS[transport]
        self._steps = [(kind, weight) for kind, weight in (*DATA, *VERBS) if kind not in self._transport.lacks]
        self._sizes = [0 for _ in FILES]
        self._made = 0
        self._names = [FIRST]
        self._snapshots: dict[str, list[tuple[str, int]]] = {FIRST: []}

    def run(self, seconds: float, steps: int = 1 << 30) -> None:
        """Go on for so long, or so many steps."""
        with (
            native_directory(self._directory / "native") as native,
            closing(self._transport(self._directory)) as world,
            closing(Hand(native)) as self._other,
        ):
            self._mounted = Hand(world.serve(FIRST))
            try:
                until = time.monotonic() + seconds
                while steps and time.monotonic() < until:
                    steps -= 1
                    self._step(world)
            finally:
                self._mounted.close()

    def _step(self, world: World) -> None:
        kinds, weights = zip(*self._steps, strict=True)
        kind = self._random.choices(kinds, weights)[0]
        if kind in dict(VERBS):
            self._verb(kind, world)
        else:
            self._change(kind, world)
        for which in FILES:
            self._both("check", which)

    def _change(self, kind: str, world: World) -> None:
        which, before = self._random.choice(FILES), world.journaled()
        arguments = self._copied(which) if kind in COPIES and self._random.randrange(3) else self._arguments(which)
        done = self._both(kind, which, *arguments)
        self.counts[kind] += 1
        after = world.journaled()
        if kind in COPIES and before is not None and after is not None:
            self.counts["by reference"] += done >= CLONE_MIN and after - before < PAGE

    def _arguments(self, which: int) -> tuple[int, int, int, int]:
        """(offset, length, another offset, seed of the data)"""
        random = self._random
        offset = random.choice((random.randrange(SIZE_MAX), random.randrange(self._sizes[which] + 1)))
        length = random.choice((random.randrange(1, 200), random.randrange(1, 9000), random.randrange(1, 150_000)))
        if random.randrange(3) == 0:
            offset, length = offset & -PAGE, -(-length // PAGE) * PAGE
        length = max(1, min(length, SIZE_MAX - offset))
        return offset, length, random.randrange(SIZE_MAX - length + 1), random.randrange(1 << 30)

    def _copied(self, which: int) -> tuple[int, int, int, int]:
        """The same of a copy that may be taken by reference: whole pages, or all that there is."""
        random, pages = self._random, self._sizes[which] // PAGE
        if random.randrange(6) == 0:
            return 0, SIZE_MAX, 0, 0
        length = min(random.randrange(CLONE_MIN // PAGE, 40), max(pages, 1))
        offset, target = random.randrange(max(pages - length, 0) + 1), random.randrange(SIZE_MAX // PAGE - length)
        return offset * PAGE, length * PAGE, target * PAGE, 0

    def _both(self, kind: str, which: int, *arguments: int) -> Any:
        self.history.append(f"{kind} {NAMES[which]} {' '.join(map(str, arguments))}")
        del self.history[:-HISTORY]
        expected, found = self._other.do(kind, which, *arguments), self._mounted.do(kind, which, *arguments)
        if expected != found:
            raise Diverged(f"{kind} {NAMES[which]} {arguments}: ext4 {expected}, cowfs {found}")
        if kind == "check":
            if expected["wrong"]:
                raise Diverged(f"{NAMES[which]} is not what was written: {expected['wrong']}")
            self._sizes[which] = expected["size"]
        return expected

    def _verb(self, kind: str, world: World) -> None:
        name, number = self._names[-1], 0
        snapshots = self._snapshots[name]
        if kind == "settle":
            world.settle()
        elif kind == "checkpoint" or not snapshots:
            kind = "checkpoint"
            made = world.checkpoint()
            self._made = number = self._made + 1
            for which in FILES:
                self._both("keep", which, number)  # the files' dirty mapped pages are part of it
            snapshots.append((made, number))
            del snapshots[:-SNAPSHOTS_MAX]
        elif kind == "restore":
            number = self._restore(world, *self._random.choice(snapshots))
        elif len(self._names) < FORKS_MAX:
            number = self._fork(world, *self._random.choice(snapshots))
        else:
            return
        self.history.append(f"{kind} {number}")
        self.counts[kind] += 1

    def _restore(self, world: World, snapshot: str, number: int) -> int:
        for which in FILES if world.lets_go else ():
            self._mounted.do("let go", which)
        world.restore(snapshot, discard=bool(self._random.randrange(2)))
        for which in FILES:
            self._other.do("back", which, number, 1)
            self._mounted.do("back", which, number, 0)
        return number

    def _fork(self, world: World, snapshot: str, number: int) -> int:
        """Go on in a fork."""
        name = f"w{len(self._names)}"
        world.fork(snapshot, name)
        self._mounted.close()
        self._mounted = Hand(world.serve(name))
        self._names.append(name)
        self._snapshots[name] = []
        for which in FILES:
            self._mounted.do("adopt", which, self._other.do("saved", which, number))
            self._other.do("back", which, number, 1)
        return number


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--transport", choices=WORLDS, default="kernel")
    options = parser.parse_args()
    if options.transport == "pyfuse3" and importlib.util.find_spec("pyfuse3") is None:
        print("pyfuse3 is not installed: nothing was tried")
        return 0
    with tempfile.TemporaryDirectory(prefix="cowfs-fsx-") as scratch:
        exerciser = Exerciser(Path(scratch), options.seed, options.transport)
        wrong = ""
        try:
            exerciser.run(options.seconds)
        except Diverged as error:
            wrong = str(error)
            print("\n".join(exerciser.history), file=sys.stderr)
    counts = dict(sorted(exerciser.counts.items()))
    steps = sum(counts.values()) - counts.get("by reference", 0)
    print(json.dumps({"seed": options.seed, "wrong": wrong, "operations": steps, **counts}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
