"""Workloads of :mod:`bench.workloads` that read and write data: SQLite, PostgreSQL, fio, dbench.

Whatever the program reports is turned into seconds for a fixed amount of work, so that less is better everywhere: a
file of ``large_mib`` MiB read or written through, :data:`RANDOM_REQUESTS` requests of 4 KiB, :data:`DBENCH_MB` MB of
dbench. Writes include the fsync at their end.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from bench import common
from bench.systems import System
from bench.workload import PROGRAM_SECONDS, Sizes, Workload, seconds
from tests.databases import server

RANDOM_REQUESTS = 4096
JOBS = (1, 4)
DBENCH_MB = 100
DBENCH_CLIENTS = 4
DBENCH_LOAD = Path("/usr/share/dbench/client.txt")
CLIENTS = 4


def output(*command: str | Path) -> str:
    """What a program prints that must succeed."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True,
        env=common.environment(), timeout=PROGRAM_SECONDS,
    )  # fmt: skip
    return done.stdout


def sqlite(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """Inserts, each a transaction of its own that is on the disk when it returns."""
    taken = {}
    for mode in ("delete", "wal"):
        database = sqlite3.connect(system.root / f"{mode}.db", isolation_level=None)
        try:
            (found,) = database.execute(f"pragma journal_mode = {mode}").fetchone()
            if found != mode:
                raise OSError(f"SQLite cannot use journal_mode {mode} here, it stays with {found}")
            database.execute("pragma synchronous = full")
            database.execute("create table rows (id integer primary key, text)")

            def insert(into: sqlite3.Connection = database) -> None:
                for number in range(sizes.rows):
                    into.execute("insert into rows (text) values (?)", (f"row {number} " * 8,))

            taken[f"sqlite_{mode}"] = seconds(insert)
        finally:
            database.close()
    return taken


def fio_once(root: Path, pattern: str, jobs: int, sizes: Sizes) -> float:
    """Seconds that fio takes for one pattern. Every job has a file of its own; together they have ``large_mib`` MiB."""
    large = sizes.large_mib * 2**20
    sequential = pattern in ("read", "write")
    amount = large if sequential else RANDOM_REQUESTS * 4096
    words = [
        "--name=large", f"--directory={root}", "--filename_format=large.$jobnum", f"--numjobs={jobs}", "--thread",
        f"--rw={pattern}", f"--bs={'128k' if sequential else '4k'}", f"--size={large // jobs}",
        f"--io_size={amount // jobs}", "--ioengine=psync", "--invalidate=0", "--fallocate=none", "--randseed=1",
        "--group_reporting", "--output-format=json",
    ]  # fmt: skip
    if pattern.endswith("write"):
        words.append("--end_fsync=1")
    direction = "read" if pattern.endswith("read") else "write"
    report: dict[str, Any] = json.loads(output("fio", *words))["jobs"][0][direction]
    return float(report["runtime"]) / 1000 * amount / float(report["io_bytes"])


def fio(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """Write files through, read them through cold and warm, then read and write at random; by one job and by four."""
    taken = {}
    for jobs in JOBS:
        root = system.root / f"fio{jobs}"
        root.mkdir()

        def step(name: str, pattern: str, jobs: int = jobs, root: Path = root) -> None:
            taken[f"{name}_{jobs}"] = fio_once(root, pattern, jobs, sizes)

        step("fio_write", "write")
        system.make_cold()
        step("fio_read_cold", "read")
        step("fio_read_warm", "read")
        system.make_cold()
        step("fio_random_read_cold", "randread")
        step("fio_random_write", "randwrite")
        shutil.rmtree(root)
    return taken


def dbench(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """A file server's mix of requests from some clients."""
    root = system.root / "dbench"
    root.mkdir()
    words = ("-c", DBENCH_LOAD, "-D", root, "-t", str(sizes.dbench_s), str(DBENCH_CLIENTS))
    printed = output("dbench", *words)
    found = re.search(r"^Throughput ([0-9.]+) MB/sec", printed, re.MULTILINE)
    if found is None or not float(found[1]):
        raise OSError(f"dbench reports no throughput: {printed[-500:]}")
    return {"dbench": DBENCH_MB / float(found[1])}


def pgbench(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """initdb, and transactions of pgbench from some clients, as the user postgres; initdb without its final sync."""
    inputs.chmod(0o711)
    place = inputs / "place"
    served = server.Server(system.root / "pg", place)
    try:
        taken = {"pg_initdb": seconds(served.make)}
        served.start()
        taken["pg_fill"] = seconds(served.run, "pgbench", "-i", "-q", "-s", "1")
        each = str(sizes.transactions // CLIENTS)
        taken["pgbench"] = seconds(served.run, "pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-t", each)
        served.stop()
    finally:
        served.leave()
        place.rmdir()
        shutil.rmtree(place.with_name(place.name + "-run"))
    return taken


def dbench_missing() -> str:
    """Why dbench cannot run, though it is there."""
    return "" if DBENCH_LOAD.exists() else f"dbench has no load file at {DBENCH_LOAD}"


WORKLOADS = {
    "sqlite": Workload(sqlite),
    "fio": Workload(fio, needs=("fio",)),
    "dbench": Workload(dbench, needs=("dbench",), why_not=dbench_missing),
    "pgbench": Workload(pgbench, why_not=server.why_not),
}
