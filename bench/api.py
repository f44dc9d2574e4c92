"""The verbs through the HTTP API of the real daemon, on mounted workspaces: ``cowfs.connect()`` in this process.

Also what one more idle fork costs the daemon: bytes on disk, and private memory of supervisor and worker, both when it
has only been made and when it is mounted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

from bench import common, daemons, trees
from bench.common import Series
from cowfs.client.store import Store

CHANGES = 100
BATCHES = 5
READERS_END_S = 12.0
"""After so long without a request, the threads that served one have ended, and their buffers are free."""


def one_turn(client: Store, files: int, turn: str, series: Series) -> None:
    """Every verb once on the workspace of ``files`` files."""
    workspace = client.workspace(f"n{files}")
    root = Path(workspace.path)
    one, many = trees.spread(1, files), trees.spread(CHANGES, files)
    daemons.overwrite(root, one, hash(turn))
    series.time("checkpoint_durable", workspace.checkpoint, "one change")
    series.time("checkpoint_clean", workspace.checkpoint, "nothing changed")
    series.time("fork", client.fork, f"n{files}@base", f"n{files}-fork-{turn}")
    daemons.settled(client)
    workspace.restore("@base", discard=True)
    daemons.overwrite(root, many, hash(turn))
    series.time("restore_100_changes", workspace.restore, "@base")
    daemons.settled(client)


def measure(client: Store, sizes: list[int], writers: int, turns: int) -> dict[str, Any]:
    """All workspaces in turns, with ``writers`` files open for writing in each."""
    series = {files: Series() for files in sizes}
    ping = Series()
    held = []
    for files in sizes:
        held += daemons.hold_open(Path(client.workspace(f"n{files}").path), trees.spread(writers, files))
    try:
        for turn in range(turns):
            ping.time("null_call", client.daemon)
            for files in sizes:
                one_turn(client, files, f"{writers}-{turn}", series[files])
    finally:
        for fd in held:
            os.close(fd)
    return {"files": {str(files): one.summaries() for files, one in series.items()}, **ping.summaries()}


def idle_forks(client: Store, ref: str, count: int, mounted: int) -> dict[str, Any]:
    """What forks cost while nobody uses them: for each, how much more there is after every further batch of them.

    Memory that earlier work has left free is used first, and is given back now and then; so the processes are new, the
    first batch is not counted, and the growth from batch to batch is the median over all pairs of them.
    """
    store = Path(client.path)
    forks = client.fork(ref, "idle", count=count // BATCHES)
    made = [_taken(client, store)]
    for batch in range(BATCHES):
        forks += client.fork(ref, f"idle{batch}", count=count // BATCHES)
        made.append(_taken(client, store))
    each = mounted // (BATCHES + 1)
    served = []
    for batch in range(BATCHES + 1):
        for fork in forks[batch * each : (batch + 1) * each]:
            fork.mount()
        time.sleep(READERS_END_S)
        served.append(_taken(client, store))
    (disk, memory), (served_disk, served_memory) = _growth(made, count // BATCHES), _growth(served, each)
    return {
        "count": count,
        "disk_bytes_each": disk,
        "resident_bytes_each": memory,
        "mounted": mounted,
        "mounted_resident_bytes_each": served_memory,
        "mounted_disk_bytes_each": served_disk,
    }


def _taken(client: Store, store: Path) -> tuple[int, int]:
    """(bytes on disk, resident bytes of the daemon's processes)."""
    return common.disk_bytes(store), sum(common.resident_bytes(pid) for pid in daemons.pids(client))


def _growth(taken: list[tuple[int, int]], each: int) -> tuple[int, int]:
    """Of both figures, what one fork adds: the median slope over all pairs of batches of ``each`` forks."""
    pairs = list(itertools.combinations(enumerate(taken), 2))
    disk, memory = (
        statistics.median((b[which] - a[which]) / ((j - i) * each) for (i, a), (j, b) in pairs) for which in (0, 1)
    )
    return round(disk), round(memory)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 1_000_000])
    parser.add_argument("--writers", type=int, nargs="*", default=[0, 1_000])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--forks", type=int, default=1000)
    parser.add_argument("--mounted", type=int, default=200)
    options = parser.parse_args()
    with common.scratch() as directory:
        daemons.make_store(directory / "store", options.files)
        with daemons.serving(directory / "store") as client:
            for files in options.files:
                client.workspace(f"n{files}").checkpoint("base", label="base")
            results: dict[str, Any] = {
                "writers": {
                    str(writers): measure(client, options.files, writers, options.turns) for writers in options.writers
                }
            }
            for workspace in client.workspaces():
                if workspace.mounted:
                    client.umount(workspace.name)
        with daemons.serving(directory / "store") as client:
            results["idle_fork"] = idle_forks(client, f"n{options.files[-1]}@base", options.forks, options.mounted)
    common.report("api", results)


if __name__ == "__main__":
    main()
