"""What a workload is: real programs on a directory of the system under test, and how long they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import native
from bench.systems import System

PROGRAM_SECONDS = 900.0
"""After which a program counts as hanging."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do: files of a tree, of a git repository and of a storm, sources of a C project, rows,
    MiB of a large file, seconds of dbench, transactions of pgbench."""

    tree_files: int = 36_000
    git_files: int = 5_000
    storm_files: int = 5_000
    sources: int = 60
    rows: int = 300
    large_mib: int = 256
    dbench_s: int = 10
    transactions: int = 2_000


SMALL = Sizes(300, 200, 200, 8, 20, 16, 2, 100)


@dataclass(frozen=True, slots=True)
class Workload:
    """``prepare(inputs, sizes)`` makes on the disk what every system gets, once. ``run(system, inputs, sizes)`` works
    in the empty ``system.root`` and says how many seconds each of its steps took; what it leaves there goes with the
    system. ``needs``: programs; ``why_not()``: what else is missing, empty when nothing is."""

    run: Callable[[System, Path, Sizes], dict[str, float]]
    prepare: Callable[[Path, Sizes], None] = lambda inputs, sizes: None
    needs: tuple[str, ...] = ()
    why_not: Callable[[], str] = lambda: ""

    def lacks(self) -> str:
        """Why it cannot run here; empty when it can."""
        missing = native.missing(*self.needs)
        return f"not installed: {', '.join(missing)}" if missing else self.why_not()


def seconds(call: Callable[..., object], *arguments: object, times: int = 1) -> float:
    """How long ``call`` took; of several ``times``, the median."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call(*arguments)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[times // 2]
