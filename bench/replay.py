"""How long a journal takes to replay: opening a store whose workspace has 100,000 unsettled records.

The records are those of an untar as root: per file a creation, a write of 1 KiB, and three changes of attributes.
``open_s`` is all of ``Engine.open``; ``empty_s`` that of a store with nothing to replay, to be subtracted.
"""

from __future__ import annotations

import argparse
import os
import stat
import time
from typing import Any

from bench import common
from cowfs.engine import Engine
from cowfs.view.inode import Caller, SetAttr

RECORDS_A_FILE = 5
FILES_A_DIRECTORY = 100


def fill(engine: Engine, name: str, records: int) -> int:
    """Journal about ``records`` records; how many."""
    engine.create(name)
    workspace = engine.host.workspace(engine.open_workspace(name))
    view, caller, data = workspace.view, Caller(), os.urandom(1024)
    directory = 1
    for index in range(records // RECORDS_A_FILE):
        if index % FILES_A_DIRECTORY == 0:
            directory = view.mkdir(1, b"d%06d" % index, 0o755, caller).ino
        ino = view.mknod(directory, b"f%07d" % index, stat.S_IFREG | 0o600, 0, caller).ino
        view.write(ino, 0, data, caller)
        view.setattr(ino, SetAttr(mtime=1_700_000_000_000_000_000 + index), caller)
        view.setattr(ino, SetAttr(uid=1000, gid=1000), caller)
        view.setattr(ino, SetAttr(mode=0o644), caller)
    return workspace.statistics().journal.next_seq - 1


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"empty": [], "full": []}
    with common.scratch() as directory:
        with common.engine_at(directory / "empty") as engine:
            engine.create("empty")
        with common.engine_at(directory / "full") as engine:
            began = time.perf_counter()
            records = fill(engine, "full", options.records)
            journaling = time.perf_counter() - began
        size = common.disk_bytes(directory / "full" / "journals")
        for _ in range(options.turns):
            for kind in seconds:
                began = time.perf_counter()
                engine = Engine.open(directory / kind, time.time_ns, common.ids)
                seconds[kind].append(time.perf_counter() - began)
                engine.close()
    summaries = {kind: common.summary(taken) for kind, taken in seconds.items()}
    replay = summaries["full"]["median_ms"] - summaries["empty"]["median_ms"]
    results: dict[str, Any] = {
        "records": records,
        "journal_bytes": size,
        "open_with_journal": summaries["full"],
        "open_without": summaries["empty"],
        "replay_ms": round(replay, 1),
        "replay_ms_per_100k": round(replay * 100_000 / records, 1),
        "record_us": round(replay * 1000 / records, 2),
        "journaling_us_each": round(journaling * 1e6 / records, 2),
    }
    common.report("replay", results)


if __name__ == "__main__":
    main()
