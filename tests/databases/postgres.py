"""``python -m tests.databases.postgres``: checkpoints while pgbench runs; a second server on every fork of them.

Prints one JSON object. Each fork recovers as after a crash, passes ``pg_amcheck --heapallindexed`` and pgbench's own
invariants, holds every transaction that was committed before the checkpoint began and none that came after it had
returned, and can be worked with. In the end tables are dropped and a restore brings them back.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowfs.client import Store, connect
from tests.cli.live import Live
from tests.databases.server import Server, why_not

INVARIANT = """
    select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)
       and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)
       and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history),
       (select count(*) from pgbench_accounts), (select count(*) from pgbench_history)
"""
ACCOUNTS = 100_000
"""Rows for each unit of pgbench's scale."""

TRANSACTIONS_IN_A_FORK = 50


@dataclass
class Report:
    """What was seen. ``committed``: for each checkpoint, before its call, in its forks, after its return."""

    checkpoints_ms: list[float] = field(default_factory=list)
    committed: list[tuple[int, int, int]] = field(default_factory=list)
    forks: int = 0
    forks_recovered: int = 0
    forks_passed: int = 0
    start_seconds: list[float] = field(default_factory=list)
    restore_ms: float = 0.0
    restored: int = 0
    transactions: int = 0
    transactions_failed: int = 0
    fsck: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"start_seconds": [round(each, 2) for each in self.start_seconds]}


def examine(server: Server, scale: int) -> int:
    """Look at a database of pgbench, indexes and all; the number of transactions in it."""
    server.run("pg_amcheck", "--heapallindexed", "--install-missing")
    holds, accounts, history = server.ask(INVARIANT).split("|")
    assert (holds, int(accounts)) == ("t", scale * ACCOUNTS), (holds, accounts, history)
    return int(history)


def committed(server: Server) -> int:
    """Transactions that are committed by now."""
    return int(server.ask("select count(*) from pgbench_history"))


def goes_on(load: subprocess.Popen[str], seconds: float) -> None:
    """Let the load run for so long; it must not end by itself before."""
    try:
        load.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(f"pgbench has ended: {load.communicate()[0]}")


class Campaign:
    """A server in a mounted workspace ``ws``, its own directory ``pg``; ``places``: where every user may enter."""

    def __init__(self, client: Store, places: Path, scale: int) -> None:
        self.report = Report()
        self._client, self._places, self._scale = client, places, scale
        self._workspace = client.create("ws")
        self.server = Server(Path(self._workspace.path) / "pg", places / "ws")

    def run(self, forks: int, checkpoints: int, seconds: float) -> None:
        """Load for so long, forks of as many checkpoints in it, then the restore."""
        self.server.make()
        self.server.start()
        self.server.run("pgbench", "-i", "-q", "-s", str(self._scale))
        load = self.server.command("pgbench", "-n", "-c", "4", "-j", "2", "-T", str(max(1, round(seconds))))
        try:
            for number in range(checkpoints):
                goes_on(load, seconds / (checkpoints + 1))
                self._checkpoint(number, forks // checkpoints + (number < forks % checkpoints))
            printed, _ = load.communicate(timeout=seconds + 60)
        finally:
            load.kill()
            load.wait()
        assert load.returncode == 0, printed
        self.report.transactions = int(re.search(r"actually processed: (\d+)", printed)[1])  # type: ignore[index]
        self.report.transactions_failed = int(re.search(r"failed transactions: (\d+)", printed)[1])  # type: ignore[index]
        for number in range(checkpoints):
            for fork in [each.name for each in self._client.workspaces() if each.name.startswith(f"fork-{number}-")]:
                self._look_at_fork(number, fork)
        self._restore(checkpoints // 2)

    def _checkpoint(self, number: int, forks: int) -> None:
        before = committed(self.server)
        began = time.perf_counter()
        self._workspace.checkpoint(f"under load, {number}", label=f"load-{number}")
        self.report.checkpoints_ms.append(round((time.perf_counter() - began) * 1000, 2))
        self.report.committed.append((before, -1, committed(self.server)))
        self._client.fork(f"ws@load-{number}", f"fork-{number}", count=forks)
        self.report.forks += forks

    def _look_at_fork(self, number: int, name: str) -> None:
        server = Server(Path(self._client.mount(name)) / "pg", self._places / name)
        try:
            began = time.perf_counter()
            server.start()
            self.report.start_seconds.append(time.perf_counter() - began)
            self.report.forks_recovered += server.recovered()
            held = examine(server, self._scale)
            before, other, after = self.report.committed[number]
            assert before <= held <= after, f"{name}: {before} transactions, then the checkpoint holds {held}, {after}"
            assert other in (-1, held), f"forks of one checkpoint hold {other} and {held} transactions"
            self.report.committed[number] = before, held, after
            server.run("pgbench", "-n", "-t", str(TRANSACTIONS_IN_A_FORK))
            assert examine(server, self._scale) == held + TRANSACTIONS_IN_A_FORK
            server.stop()
            self.report.forks_passed += 1
        finally:
            server.leave()
        self._client.umount(name)

    def _restore(self, number: int) -> None:
        """Drop tables, stop the server, restore, start it: all is there."""
        self.server.ask("drop table pgbench_accounts, pgbench_history")
        self.server.stop()
        began = time.perf_counter()
        self._workspace.restore(f"@load-{number}")
        self.report.restore_ms = round((time.perf_counter() - began) * 1000, 2)
        self.server.start()
        self.report.restored = examine(self.server, self._scale)
        assert self.report.restored == self.report.committed[number][1]
        self.server.stop()


@contextmanager
def open_places() -> Iterator[Path]:
    """A directory that every user may enter, gone in the end."""
    with tempfile.TemporaryDirectory(prefix="cowfs-pg-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def run(store: Path, forks: int, checkpoints: int, seconds: float, scale: int) -> Report:
    """The whole of it on a new ``store``. Raises AssertionError with what is wrong."""
    live = Live(store)
    live.cowfs("init")
    live.cowfs("daemon", "start")
    with open_places() as places, connect(store) as client:
        try:
            campaign = Campaign(client, places, scale)
            try:
                campaign.run(forks, checkpoints, seconds)
            finally:
                campaign.server.leave()
        finally:
            live.end()
    campaign.report.fsck = live.cowfs("fsck")
    assert campaign.report.fsck == "clean"
    return campaign.report


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forks", type=int, default=20)
    parser.add_argument("--checkpoints", type=int, default=4, help="at even times of the load; the forks are theirs")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    parser.add_argument("--scale", type=int, default=2, help="of pgbench: 100,000 accounts each")
    options = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="cowfs-postgres-") as scratch:
        report = run(Path(scratch) / "store", options.forks, options.checkpoints, options.seconds, options.scale)
    print(json.dumps(report.as_json(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
