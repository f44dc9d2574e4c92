"""``pinned`` places whole servers: what is not on the chosen CPU would work for the one under test in secret."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from bench import common, systems
from cowfs import connect
from tests.support.mounting import needs_mounts, needs_root

pytestmark = [*needs_mounts, needs_root("it drops caches")]


def affinities(store: Path) -> dict[str, set[frozenset[int]]]:
    """Role -> where the threads of its processes may run."""
    with connect(store, start=False) as client:
        status = client.daemon()
    found: dict[str, set[frozenset[int]]] = {}
    for role in ("keeper", "supervisor", "workers", "settlers"):
        for each in status[role] if isinstance(status[role], list) else [status[role]]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it had nothing more to do
                threads = os.listdir(f"/proc/{each['pid']}/task")
                found.setdefault(role, set()).update(frozenset(os.sched_getaffinity(int(thread))) for thread in threads)
    return found


def test_every_process_of_the_daemon_is_placed_after_a_restart_too(tmp_path: Path) -> None:
    where = frozenset({min(os.sched_getaffinity(0))})
    before = os.sched_getaffinity(0)
    with systems.cowfs_system(tmp_path / "system", tuple(where)) as system:
        (system.root / "file").write_bytes(b"x")
        first = affinities(tmp_path / "system" / "store")
        system.make_cold()
        second = affinities(tmp_path / "system" / "store")
        assert (system.root / "file").read_bytes() == b"x"
    assert first.keys() >= {"keeper", "supervisor", "workers"}
    assert set().union(*first.values()) == set().union(*second.values()) == {where}
    assert os.sched_getaffinity(0) == before
    common.run(sys.executable, "-P", "-m", "cowfs_cli", "fsck", "--store", tmp_path / "system" / "store")
