"""What follows a checkpoint in the background: settling the frozen layer, from the job's start to its root.

Layers of one and of 100 changed files, and of 4 MiB in one file, on stores of different sizes.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench import common, trees, verbs
from bench.common import Series
from cowfs.engine import Engine

SIZES = {"1_change": (1, 4096), "100_changes": (100, 4096), "4_mib": (1, 4 * 1024 * 1024)}


def measure(engine: Engine, files: int, turns: int) -> dict[str, Any]:
    """Settle layer after layer of a workspace of ``files`` files."""
    name, series = f"n{files}", Series()
    trees.synthetic_workspace(engine, name, files)
    engine.checkpoint(name, "base", "base")
    workspace = engine.host.workspace(engine.open_workspace(name))
    engine.settle()
    for turn in range(turns):
        for label, (count, size) in SIZES.items():
            verbs.change(workspace.view, trees.spread(count, files), turn, size)
            engine.checkpoint(name, label)
            series.time(label, engine.settle_next)
    return series.summaries()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 300_000])
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for files in options.files:
        with common.scratch() as directory, common.engine_at(directory / "store") as engine:
            results[str(files)] = measure(engine, files, options.turns)
    common.report("settle", {"files": results})


if __name__ == "__main__":
    main()
