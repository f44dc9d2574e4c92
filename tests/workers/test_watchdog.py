"""Workers that hang are ended and replaced; those that are slow are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs_daemon import remote
from cowfs_daemon.activity import Limits, Silence
from tests.support.mounting import needs_mounts
from tests.workers.conftest import DEADLINE_SECONDS, Owned, Writer, eventually
from tests.workers.test_pressed import waiting

pytestmark = needs_mounts


def test_a_stopped_worker_is_replaced_and_its_program_goes_on(owned: Owned, writers: Callable[[Path], Writer]) -> None:
    program = writers(owned.make("ws"))
    worker, watchdog = owned.worker_of("ws"), owned.owner.watchdog
    old = worker.pid
    assert old is not None
    os.kill(old, signal.SIGSTOP)
    for _ in range(Limits().idle_beats + 2):
        watchdog.beat()
    assert watchdog.killed == 1
    eventually(lambda: worker.started and worker.pid != old, "another worker")
    eventually(lambda: owned.pool.is_open(owned.engine.workspace("ws").id), "the workspace to be served again")
    assert program.end() > 0


def test_a_worker_whose_programs_are_held_back_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writers: Callable[[Path], Writer]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(remote.WorkerProcess, "MODULE", "tests.workers.pressed")
    owned = Owned(tmp_path, 1)
    try:
        program = writers(owned.make("ws"))
        eventually(lambda: waiting(owned) > 0, "a request that waits")
        for _ in range(5 * Limits().idle_beats):
            owned.owner.watchdog.beat()
            owned.worker_of("ws").call("figures")  # it has answered the beat, too
        assert owned.owner.watchdog.killed == 0
        owned.engine.checkpoint("ws", "")
        owned.engine.settle()
        assert program.end() > 0
    finally:
        owned.close()


@pytest.mark.parametrize(("code", "patient"), [("while True: pass", True), ("input()", False)], ids=["busy", "idle"])
def test_a_process_at_work_gets_more_time(code: str, patient: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        silence, beats, beat_s = Silence(process.pid, 0.02, Limits(idle_beats=10, busy_beats=60)), 1, 0.02
        until = time.monotonic() + DEADLINE_SECONDS
        while not silence.missed():
            assert time.monotonic() < until
            beats += 1
            threading.Event().wait(beat_s)
        assert beats == (60 if patient else 10)
    finally:
        process.kill()
        process.communicate()
