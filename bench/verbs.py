"""The verbs in the engine: fork, checkpoint and restore among 1 thousand, 100 thousand and 1 million files.

Beside them, turn by turn: appending to a file and fdatasync, which no durable verb can beat. The workspaces take
turns, so that all of them and the floor see the same disk. Nothing is mounted (``live.py`` measures that).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench import common, trees
from bench.common import Series
from cowfs.engine import Engine
from cowfs.view.inode import Caller
from cowfs.view.view import View

CHANGES = 100
TAIL_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 1024 * 1024  # the largest write that a mount asks for


def change(view: View, paths: list[str], turn: int, size: int = 4096) -> None:
    """Overwrite files with ``size`` bytes each."""
    for index, path in enumerate(paths):
        ino = 1
        for name in path.encode().split(b"/"):
            inode = view.lookup(ino, name)
            assert inode is not None
            ino = inode.ino
        for offset in range(0, size, PIECE_BYTES):
            piece = min(size - offset, PIECE_BYTES)
            view.write(ino, offset, (b"%d %d " % (turn, index)).ljust(piece, b"x"), Caller())


def one_turn(engine: Engine, files: int, turn: int, series: Series) -> None:
    """Every verb once, on the workspace of ``files`` files, each from the state that it is about."""
    name = f"n{files}"
    workspace = engine.host.workspace(engine.open_workspace(name))
    one, many = trees.spread(1, files), trees.spread(CHANGES, files)
    change(workspace.view, one, turn)
    series.time("checkpoint_durable", engine.checkpoint, name, "one change")
    series.time("checkpoint_clean", engine.checkpoint, name, "nothing changed")
    change(workspace.view, one, turn, TAIL_BYTES)
    series.time("checkpoint_4mib_tail", engine.checkpoint, name, "4 MiB")
    series.time("fork", engine.fork, f"{name}@base", f"{name}-fork-{turn}")
    change(workspace.view, one, turn)
    series.time("fork_changed", engine.fork, name, f"{name}-live-{turn}")
    engine.restore(name, "@base", discard=True)
    change(workspace.view, many, turn)
    series.time("restore_100_changes", engine.restore, name, "@base")


def measure(engine: Engine, directory: Path, sizes: list[int], turns: int) -> dict[str, Any]:
    """All verbs on all workspaces, in turns."""
    floor, tail_floor = common.Appender(directory / "floor"), common.Appender(directory / "tail", TAIL_BYTES)
    common_series, series = Series(), {files: Series() for files in sizes}
    for files in sizes:
        trees.synthetic_workspace(engine, f"n{files}", files)
        engine.checkpoint(f"n{files}", "base", "base")
    for turn in range(turns):
        for files in sizes:
            one_turn(engine, files, turn, series[files])
        common_series.time("append_fdatasync", floor)
        common_series.time("append_4mib_fdatasync", tail_floor)
    floor.close()
    tail_floor.close()
    results: dict[str, Any] = {"floor": common_series.summaries()}
    results["files"] = {str(files): one.summaries() for files, one in series.items()}
    return results


def idle_forks(engine: Engine, name: str, count: int) -> dict[str, Any]:
    """Bytes on disk and resident that one more fork costs that nobody has written to."""
    engine.catalog.sync()
    disk, resident = common.disk_bytes(engine.store.path), common.resident_bytes()
    for forked in engine.fork(f"{name}@base", f"{name}-idle", count):
        engine.open_workspace(forked.name)
    engine.catalog.sync()
    return {
        "count": count,
        "disk_bytes_each": (common.disk_bytes(engine.store.path) - disk) // count,
        "resident_bytes_each": (common.resident_bytes() - resident) // count,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--forks", type=int, default=1000)
    options = parser.parse_args()
    with common.scratch() as directory, common.engine_at(directory / "store") as engine:
        results = measure(engine, directory, options.files, options.turns)
        results["idle_fork"] = idle_forks(engine, f"n{options.files[-1]}", options.forks)
    common.report("verbs", results)


if __name__ == "__main__":
    main()
