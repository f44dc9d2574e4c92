"""The verbs in the engine: fork, checkpoint and restore among 1 thousand, 100 thousand and 1 million files.

Beside them, in the same run: appending 4 KiB to a file and fdatasync, which no durable verb can beat.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import common

from cowfs.engine import Engine
from cowfs.view.inode import Caller
from cowfs.view.view import View

CHANGES = 100


def change(view: View, count: int, turn: int) -> None:
    """Overwrite ``count`` files with 4 KiB each, spread over the tree."""
    caller = Caller()
    for index in range(count):
        directory = view.lookup(1, b"d%06d" % (index % max(1, _directories(view))))
        assert directory is not None
        name = next(view.readdir(directory.ino, 2))[1]
        inode = view.lookup(directory.ino, name)
        assert inode is not None
        view.write(inode.ino, 0, (b"%d %d " % (turn, index)).ljust(4096, b"x"), caller)


def _directories(view: View) -> int:
    return view.inode(1).nlink - 2


def measure(engine: Engine, name: str, rounds: int) -> dict[str, Any]:
    """All verbs on one workspace."""
    workspace = engine.host.workspace(engine.open_workspace(name))
    engine.checkpoint(name, "base", "base")
    dirty, clean, restores, forks = [], [], [], []
    for turn in range(rounds):
        change(workspace.view, 1, turn)
        dirty.append(common.timed(lambda: engine.checkpoint(name, "one change")))
        clean.append(common.timed(lambda: engine.checkpoint(name, "nothing changed")))
        change(workspace.view, CHANGES, turn)
        restores.append(common.timed(lambda: engine.restore(name, "@base", discard=True)))
        fork = f"{name}-fork-{turn}"
        forks.append(common.timed(lambda fork=fork: engine.fork(f"{name}@base", fork)))  # type: ignore[misc]
    settle = common.timed(engine.settle)
    return {
        "checkpoint_durable": common.summary(dirty),
        "checkpoint_clean": common.summary(clean),
        "restore_100_changes": common.summary(restores),
        "fork": common.summary(forks),
        "settle_all_s": round(settle, 3),
    }


def idle_forks(engine: Engine, name: str, count: int) -> dict[str, Any]:
    """Bytes on disk and resident that one more fork costs that nobody has written to."""
    engine.catalog.sync()
    disk, resident = _disk(engine.store.path), common.resident_bytes()
    for forked in engine.fork(f"{name}@base", f"{name}-idle", count):
        engine.open_workspace(forked.name)
    engine.catalog.sync()
    return {
        "count": count,
        "disk_bytes_each": (_disk(engine.store.path) - disk) // count,
        "resident_bytes_each": (common.resident_bytes() - resident) // count,
    }


def _disk(path: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file())


def append_and_sync(path: Path, rounds: int) -> list[float]:
    """Seconds of appending 4 KiB and fdatasync."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = bytes(4096)

    def once() -> None:
        os.write(fd, data)
        os.fdatasync(fd)

    seconds = [common.timed(once) for _ in range(rounds)]
    os.close(fd)
    return seconds


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with common.scratch() as directory:
        results["append_fdatasync"] = common.summary(append_and_sync(directory / "floor", 100))
        engine = common.open_store(directory / "store")
        try:
            for files in options.files:
                common.synthetic_workspace(engine, f"n{files}", files)
                results[f"{files}_files"] = measure(engine, f"n{files}", options.rounds)
            results["idle_fork"] = idle_forks(engine, f"n{options.files[-1]}", 1000)
        finally:
            engine.close()
    common.report("verbs", results)


if __name__ == "__main__":
    main()
