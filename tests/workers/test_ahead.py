"""Workers that die while the kernel is told names ahead (:mod:`cowfs_daemon.fuse.ahead`)."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from cowfs.errors import Busy
from cowfs_daemon import compose
from cowfs_daemon.fuse import listing
from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually, other_workers

pytestmark = needs_mounts

FILES = 60
POINTS = 14
"""Before replies: lookups, then the listing that these bring about, and what it opens and closes."""


def unmounted(owned: Owned, name: str) -> bool:
    """Unmount a workspace; False: it is being taken over."""
    try:
        owned.mounts.umount(name)
    except Busy:
        return False
    return True


@pytest.mark.interpreted
def test_a_worker_that_dies_while_names_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for who lists, and each file is what it is."""
    monkeypatch.setattr(compose, "LOSSES_MAX", 10**6)
    with other_workers(tmp_path, monkeypatch, "doomed", "COWFS_TEST_DOOM", 1) as (owned, doom):
        top = owned.make("ws")
        for number in range(FILES):
            (top / f"f{number}").write_bytes(bytes(number))
        died = 0
        for point in range(1, POINTS + 1):
            name = f"fork-{point}"
            owned.engine.fork("ws", name)
            path = owned.path(name)
            with Agent(timeout_s=60) as agent:
                doom.write_text(str(point))
                sizes = f"[os.stat({os.fspath(path)!r} + f'/f{{n}}').st_size for n in range({FILES})]"
                assert agent(sizes) == list(range(FILES)), point
            died += not doom.exists()
            doom.unlink(missing_ok=True)
            eventually(functools.partial(unmounted, owned, name), "the worker that took over")
            owned.engine.remove(name)
        assert died >= POINTS - 2


def lists_for(pid: int) -> bool:
    """Whether a worker has the process that lists."""
    threads = Path(f"/proc/{pid}/task")
    children = [int(one) for each in threads.iterdir() for one in (each / "children").read_text().split()]
    return any(os.fsencode(listing.__file__) in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def test_the_process_that_lists_is_started_with_the_first_mount(owned: Owned) -> None:
    owned.make("ws")
    pid = owned.worker_of("ws").pid
    assert pid is not None
    eventually(lambda: lists_for(pid), "the process that lists")
