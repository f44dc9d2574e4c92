"""``python -m tests.databases.sqlite``: checkpoints while processes write to one SQLite database in WAL mode.

Prints one JSON object. Every fork of every checkpoint passes ``PRAGMA integrity_check`` and holds, of each writer, rows
1 to n without a gap, n being no less than what it had been told before the checkpoint began, and no more than what it
was about to write when the checkpoint had returned. In the end tables are dropped and a restore brings them back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowfs.client import Store, connect
from tests.cli.live import Live
from tests.databases.writer import content, make, open_database

STARTED_SECONDS = 60.0


@dataclass
class Report:
    """What was seen. ``committed``: for each checkpoint, of all writers: before its call, in its forks, after it."""

    checkpoints_ms: list[float] = field(default_factory=list)
    committed: list[tuple[int, int, int]] = field(default_factory=list)
    forks_passed: int = 0
    wal_bytes: list[int] = field(default_factory=list)
    restore_ms: float = 0.0
    restored: int = 0
    transactions: int = 0
    fsck: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self)


class Writers:
    """Processes that write to ``database``; what they acknowledge is kept in files of ``directory``."""

    def __init__(self, database: Path, count: int, directory: Path) -> None:
        make(database, count)
        self._files = [directory / f"acknowledged-{number}" for number in range(count)]
        self._processes = []
        for number, path in enumerate(self._files):
            path.write_bytes(bytes(8))
            words = ["-m", "tests.databases.writer", str(database), str(number), str(path)]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
            self._processes.append(subprocess.Popen([sys.executable, *words], env=environment))

    def acknowledged(self) -> list[int]:
        """The last row of each writer whose commit has returned."""
        return [int.from_bytes(path.read_bytes(), "little") for path in self._files]

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition; no writer may end."""
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, f"the writers have come to {self.acknowledged()}"
            for process in self._processes:
                try:
                    code = process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
                raise AssertionError(f"a writer has ended with {code}")

    def kill(self) -> None:
        """End them at whatever they do."""
        for process in self._processes:
            process.kill()
            process.wait()


def held(path: Path, writers: int) -> list[int]:
    """Look at the whole database; the number of rows of each writer. Raises AssertionError."""
    database = open_database(path)
    try:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        totals = [entries for (entries,) in database.execute("select entries from totals order by writer")]
        assert len(totals) == writers
        for writer, total in enumerate(totals):
            rows = database.execute("select number, text from entries where writer = ? order by number", (writer,))
            found = rows.fetchall()
            assert found == [(number, content(writer, number)) for number in range(1, total + 1)], (writer, total)
        return totals
    finally:
        database.close()


class Campaign:
    """A mounted workspace ``ws`` with the database in it; ``directory`` is outside."""

    def __init__(self, client: Store, directory: Path, writers: int) -> None:
        self.report = Report()
        self._client, self._count = client, writers
        self._workspace = client.create("ws")
        self._database = Path(self._workspace.path) / "data.db"
        self.writers = Writers(self._database, writers, directory)
        self._held: list[list[int]] = []

    def run(self, forks: int, checkpoints: int, seconds: float) -> None:
        """Write for so long, forks of as many checkpoints in it, then the restore."""
        self.writers.wait(lambda: min(self.writers.acknowledged()) > 0, STARTED_SECONDS)
        for number in range(checkpoints):
            self._pass(seconds / checkpoints)
            self._checkpoint(number, forks // checkpoints + (number < forks % checkpoints))
        self.writers.kill()
        self.report.transactions = sum(self.writers.acknowledged())
        self._restore(checkpoints // 2)

    def _pass(self, seconds: float) -> None:
        """So much time under load, and at least one commit more of each writer."""
        until, before = time.monotonic() + seconds, self.writers.acknowledged()
        self.writers.wait(
            lambda: time.monotonic() > until and all(map(int.__lt__, before, self.writers.acknowledged())),
            seconds + STARTED_SECONDS,
        )

    def _checkpoint(self, number: int, forks: int) -> None:
        before = self.writers.acknowledged()
        began = time.perf_counter()
        self._workspace.checkpoint(f"under load, {number}", label=f"load-{number}")
        self.report.checkpoints_ms.append(round((time.perf_counter() - began) * 1000, 2))
        after = [acknowledged + 1 for acknowledged in self.writers.acknowledged()]
        first: list[int] = []
        for fork in self._client.fork(f"ws@load-{number}", f"fork-{number}", count=forks):
            database = Path(fork.path) / "data.db"
            self.report.wal_bytes.append((database.parent / "data.db-wal").stat().st_size)
            found = held(database, self._count)
            assert all(low <= here <= high for low, here, high in zip(before, found, after, strict=True)), (
                f"{fork.name}: acknowledged {before}, in the checkpoint {found}, at most {after}"
            )
            assert found == (first or found), f"forks of one checkpoint hold {first} and {found}"
            first = found
            fork.umount()
            self.report.forks_passed += 1
        self._held.append(first)
        self.report.committed.append((sum(before), sum(first), sum(after)))

    def _restore(self, number: int) -> None:
        """Drop the tables, restore: all is there, and can be written to."""
        database = open_database(self._database)
        database.executescript("drop table entries; drop table totals; vacuum;")
        database.close()
        began = time.perf_counter()
        self._workspace.restore(f"@load-{number}")
        self.report.restore_ms = round((time.perf_counter() - began) * 1000, 2)
        found = held(self._database, self._count)
        assert found == self._held[number]
        self.report.restored = sum(found)


def run(directory: Path, writers: int, forks: int, checkpoints: int, seconds: float) -> Report:
    """The whole of it on a new store below ``directory``. Raises AssertionError with what is wrong."""
    live = Live(directory / "store")
    live.cowfs("init")
    live.cowfs("daemon", "start")
    with connect(live.store) as client:
        try:
            campaign = Campaign(client, directory, writers)
            try:
                campaign.run(forks, checkpoints, seconds)
            finally:
                campaign.writers.kill()
        finally:
            live.end()
    campaign.report.fsck = live.cowfs("fsck")
    assert campaign.report.fsck == "clean"
    return campaign.report


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--forks", type=int, default=20)
    parser.add_argument("--checkpoints", type=int, default=10, help="at even times; the forks are theirs")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-sqlite-") as scratch:
        report = run(Path(scratch), options.writers, options.forks, options.checkpoints, options.seconds)
    print(json.dumps(report.as_json(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
