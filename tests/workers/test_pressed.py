"""Workers that are killed while requests of their programs wait for settling."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs_daemon import remote
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, Writer, eventually

pytestmark = needs_mounts


@pytest.fixture(autouse=True)
def pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers with a small bound."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(remote.WorkerProcess, "MODULE", "tests.workers.pressed")


def waiting(owned: Owned) -> int:
    """Requests that wait in the worker of ``ws``."""
    return int(owned.worker_of("ws").call("figures")["sums"].get("cowfs_paced_waiting", 0))


def test_what_waited_in_a_killed_worker_is_carried_out_once(
    pressed: None, owned: Owned, writers: Callable[[Path], Writer]
) -> None:
    program = writers(owned.make("ws"))
    for _ in range(3):
        eventually(lambda: waiting(owned) > 0, "a request that waits")
        owned.kill(owned.worker_of("ws"))
        eventually(lambda: owned.pool.serving(owned.engine.workspace("ws").id), "the workspace to be served again")
        owned.engine.checkpoint("ws", "")
        owned.engine.settle()
    assert program.end() > 20
