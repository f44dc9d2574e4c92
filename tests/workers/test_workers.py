"""Several workers: where workspaces are served, how they move, and what the death of one means for the others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.live import Live
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, Writer, eventually

pytestmark = needs_mounts

Start = Callable[[Path], Writer]


def test_workspaces_are_spread_and_forks_stay_with_their_parent_until_it_is_settled(owned: Owned) -> None:
    one = owned.make("one")
    first, second = owned.two_workers()
    owned.make("two")
    assert owned.worker_of("one") is first
    assert owned.worker_of("two") is second
    (one / "file").write_text("changed")
    owned.engine.fork("one", "fork", 2)
    (owned.path("fork-1") / "file").write_text("mine")
    assert (owned.path("fork-2") / "file").read_text() == "changed"
    assert owned.worker_of("fork-1") is owned.worker_of("fork-2") is first
    assert not owned.move("fork-1", second)
    owned.engine.settle()
    owned.owner.spread()
    served = [len(worker.opened()) for worker in owned.pool.workers]
    assert served == [2, 2]
    assert (owned.path("fork-1") / "file").read_text() == "mine"


def test_a_program_notices_nothing_of_twenty_moves(owned: Owned, writers: Start) -> None:
    path = owned.make("one")
    workers = owned.two_workers()
    writer = writers(path)
    for turn in range(1, 21):
        assert owned.move("one", workers[turn % 2])
        assert owned.worker_of("one") is workers[turn % 2]
        made = owned.engine.checkpoint("one", f"turn {turn}")
        assert made.snapshot.message == f"turn {turn}"
        owned.engine.settle("one")
    assert writer.end() >= 20


def test_a_move_keeps_what_the_kernel_relies_on(owned: Owned) -> None:
    path = owned.make("one")
    _, second = owned.two_workers()
    (path / "kept").write_bytes(b"old")
    (path / "gone").mkdir()
    made = owned.engine.checkpoint("one", "before").snapshot.id
    owned.engine.settle("one")
    reader, appender = os.open(path / "kept", os.O_RDONLY), os.open(path / "kept", os.O_WRONLY | os.O_APPEND)
    inside = os.open(path / "gone", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (path / "gone").rmdir()
        (path / "kept").write_bytes(b"changed")
        assert owned.move("one", second)
        restored = owned.engine.restore("one", made)
        assert [handle.writable for handle in restored.handles if not handle.gone] == [True]
        os.write(appender, b"!")
        assert os.pread(reader, 10, 0) == (path / "kept").read_bytes() == b"old!"
        (path / "gone" / "new").write_text("in a directory that is back")
        assert sorted(os.listdir(path)) == ["gone", "kept"]
    finally:
        for fd in (reader, appender, inside):
            os.close(fd)
    again = owned.engine.checkpoint("one", "after")
    assert again.changed
    assert not owned.engine.restore("one", again.snapshot.id).handles


def test_two_live_workspaces_in_different_workers_are_compared(owned: Owned) -> None:
    one = owned.make("one")
    first, second = owned.two_workers()
    (one / "same").write_text("same")
    owned.engine.fork("one", "two")
    two = owned.path("two")
    owned.engine.settle()
    assert owned.move("two", second)
    assert (owned.worker_of("one"), owned.worker_of("two")) == (first, second)
    (one / "same").write_text("differs")
    (two / "new").write_text("new")
    assert [(change.change, change.path) for change in owned.engine.diff("one", "two")] == [
        ("added", b"new"),
        ("modified", b"same"),
    ]
    assert b"".join(owned.engine.show("two", b"new")) == b"new"


def test_the_death_of_one_worker_leaves_the_others_alone(owned: Owned, writers: Start) -> None:
    one = owned.make("one")
    first, second = owned.two_workers()
    two = owned.make("two")
    frozen_id = owned.engine.checkpoint("two", "frozen", allow_empty=True).snapshot.id
    frozen = Path(owned.mounts.mount(frozen_id).path)
    here, there = writers(one), writers(two)
    before = second.pid
    owned.owner.settling.start()
    for _ in range(3):
        owned.kill(first)
        (one / "after").write_text("a program goes on")
        assert (one / "after").read_text() == "a program goes on"
    assert second.pid == before
    assert os.listdir(frozen) == []
    assert there.end() > 0
    assert here.end() > 0


@pytest.mark.parametrize("victim", [0, 1])
def test_verbs_in_one_worker_go_on_while_another_is_replaced(owned: Owned, victim: int) -> None:
    paths = [owned.make("one")]
    workers = owned.two_workers()
    paths.append(owned.make("two"))
    for path in paths:
        (path / "file").write_text("1")
    pid = workers[victim].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert owned.engine.checkpoint(("two", "one")[victim], "meanwhile").changed
    eventually(lambda: workers[victim].started, "another worker")
    assert (paths[victim] / "file").read_text() == "1"
    assert owned.engine.checkpoint(("one", "two")[victim], "after").changed


def test_programs_in_both_workers_outlive_every_process_of_the_daemon(live: Live, writers: Start) -> None:
    for name in ("one", "two", "three"):
        live.cowfs("create", name)
        live.cowfs("path", name)
    eventually(lambda: all(each["workspaces"] for each in _workers(live)) and len(_workers(live)) == 2, "two workers")
    started = [writers(Path(live.cowfs("path", name))) for name in ("one", "two", "three")]
    for victim in ("first", "second", "settler", "supervisor", "first"):
        status = live.json("daemon", "status")
        live.cowfs("checkpoint", "one", "-m", f"before the {victim} goes")
        pids = {
            "first": status["workers"][0]["pid"],
            "second": status["workers"][-1]["pid"],
            "settler": next((each["pid"] for each in status["settlers"]), status["workers"][0]["pid"]),
            "supervisor": status["supervisor"]["pid"],
        }
        with contextlib.suppress(ProcessLookupError):  # a settler may have ended by then
            os.kill(pids[victim], signal.SIGKILL)
        for name in ("one", "two", "three"):
            path = Path(live.cowfs("path", name)) / f"after-{victim}"
            path.write_text(victim)
            assert path.read_text() == victim
    assert all(writer.end() > 0 for writer in started)


def _workers(live: Live) -> list[Any]:
    found: list[Any] = live.json("daemon", "status")["workers"]
    return found


_LOCKS = """
import fcntl, sys
held, other = open("file", "w"), open("file", "w")
fcntl.flock(held, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
held.write("still mine")
held.flush()
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    fcntl.flock(held, fcntl.LOCK_UN)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("kept", flush=True)
"""


def test_locks_outlive_a_worker(owned: Owned) -> None:
    path = owned.make("one")
    command = [sys.executable, "-c", _LOCKS]
    with subprocess.Popen(command, cwd=path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "locked\n"
        owned.kill(owned.worker_of("one"))
        assert program.communicate(timeout=60)[0] == "kept\n"
    assert (path / "file").read_text() == "still mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces without a user namespace")
def test_a_namespace_that_is_just_being_made_is_no_user(owned: Owned) -> None:
    owned.make("one")
    script = "while [ -e go ]; do unshare --mount sleep 0.05; done & wait"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        go = Path(folder, "go")
        go.touch()
        sandboxes = stack.enter_context(subprocess.Popen(["sh", "-c", script], cwd=folder))
        try:
            for _ in range(10):
                owned.mounts.umount("one")
                owned.mounts.mount("one")
        finally:
            go.unlink()
        assert sandboxes.wait(30) == 0
