"""A worker that was started in the place of another has nothing open yet: whoever asks it is told to try again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Busy, NotFound
from cowfs.host import Point
from cowfs_daemon.mounts import BLAMED_MAX
from cowfs_daemon.remote import RemoteHost
from cowfs_daemon.users import mounted_at
from tests.cli.live import Live
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually

pytestmark = needs_mounts


def test_questions_about_a_live_state_are_refused_as_busy(owned: Owned) -> None:
    path = owned.make("one")
    (path / "file").write_text("content")
    owned.mounts.umount("one")
    worker, ident = owned.worker_of("one"), owned.engine.workspace("one").id
    live = Point(ident, ())
    assert worker.read(live, b"file", 0, 7) == (b"content", 7)
    owned.kill(worker)
    mounting = ("mount", ident, os.fspath(path), 1)
    asked: list[Callable[[], object]] = [
        lambda: worker.read(live, b"file", 0, 7),
        lambda: worker.diff(live, live, 1),
        lambda: worker.call(*mounting, workspaces=(ident,)),
    ]
    for ask in asked:
        with pytest.raises(Busy):
            ask()
    assert (owned.path("one") / "file").read_text() == "content"


def test_mounting_while_workers_die_is_busy_at_worst(owned: Owned) -> None:
    path = owned.make("one")
    (path / "file").write_text("content")
    worker = owned.worker_of("one")
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set():
            eventually(lambda: worker.started or stop.is_set(), "another worker")
            if (pid := worker.pid) is not None and worker.started:
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: worker.pid != pid or stop.is_set(), "another worker")  # type: ignore[misc]

    def patiently(call: Callable[[], object]) -> None:
        def done() -> bool:
            try:
                call()
            except Busy:
                return False
            return True

        eventually(done, "it never comes to an end")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(6):
            patiently(lambda: owned.mounts.umount("one"))
            patiently(lambda: owned.path("one"))
    finally:
        stop.set()
        killer.join()
    eventually(lambda: worker.started, "another worker")
    patiently(lambda: owned.path("one"))
    assert (path / "file").read_text() == "content"


def test_a_snapshot_whose_mounting_outlives_a_worker_can_be_unmounted(owned: Owned) -> None:
    """The worker was chosen, ended, and came again before it was asked: who serves must be known all the same."""
    owned.make("one")
    snapshot = owned.engine.checkpoint("one", "m", allow_empty=True).snapshot.id
    worker = owned.worker_of("one")
    place = owned.pool.place
    ended: list[RemoteHost] = []

    def ends_then(*arguments: Any) -> RemoteHost:
        chosen = place(*arguments)
        if not ended:
            ended.append(chosen)
            owned.kill(chosen)
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owned.pool, "place", ends_then)
        owned.path(snapshot)
    assert worker.started
    owned.mounts.umount(snapshot)
    assert snapshot not in {each.ref for each in owned.mounts.mounted()}


@pytest.mark.parametrize("force", [False, True])
def test_what_is_mounted_is_unmounted_by_its_id_after_its_snapshot_was_removed(owned: Owned, force: bool) -> None:
    """By a rule of retention, or at the moment when it was mounted: nobody asked its mount."""
    owned.make("one")
    snapshot = owned.engine.checkpoint("one", "frozen").snapshot.id
    place = owned.path(snapshot)
    owned.mounts.umount("one")
    owned.engine.remove("one")
    assert os.path.ismount(place)
    owned.mounts.umount(snapshot, force)
    assert not place.exists()
    assert not owned.mounts.wanted()


@pytest.mark.parametrize("pause_s", [0, 0.03, 0.1, 0.3])
def test_a_daemon_stops_just_after_a_worker_has_ended(live: Live, pause_s: float) -> None:
    live.cowfs("create", "ws")
    Path(live.cowfs("path", "ws"), "file").write_text("content")
    live.cowfs("checkpoint", "ws", "-m", "one", "--label", "one")
    live.cowfs("mount", "ws@one")
    for worker in live.json("daemon", "status")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    threading.Event().wait(pause_s)
    stopped = live.run("daemon", "stop")
    assert stopped.code == 0, stopped.err + live.log()
    assert live.mounts() == []
    assert Path(live.cowfs("path", "ws"), "file").read_text() == "content"


def test_what_a_worker_leaves_mounted_counts_as_mounted(owned: Owned) -> None:
    """Otherwise it could be renamed before its successor has it, which then mounts it at the place of the old name."""
    path = owned.make("one")
    (path / "file").write_text("content")
    served = [owned.engine.workspace("one").id]
    owned.mounts.lost(owned.owner.serving.lost(served))
    with pytest.raises(Busy), owned.mounts.unmounted("one"):
        pass
    assert owned.mounts.path_of("one") == os.fspath(path)
    owned.mounts.restore_all()
    assert (owned.path("one") / "file").read_text() == "content"


def test_what_is_left_alone_can_be_unmounted(owned: Owned) -> None:
    path = owned.make("one")
    worker = owned.worker_of("one")
    owned.mounts.lost(owned.owner.serving.lost([owned.engine.workspace("one").id]))
    owned.mounts._blamed["one"] = BLAMED_MAX
    owned.mounts.restore_all()
    owned.mounts.umount("one")
    assert mounted_at(str(path)) is None
    with owned.mounts.unmounted("one"):
        pass
    owned.kill(worker)
    assert owned.path("one") == path


def test_a_workspace_that_a_worker_does_not_know_stays_wanted(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is no more is forgotten: what is forgotten is unmounted, under programs that use it."""
    path = owned.make("one")
    (path / "file").write_text("content")
    owned.mounts.lost(owned.owner.serving.lost([owned.engine.workspace("one").id]))

    def unknown(*_: object) -> None:
        raise NotFound("workspace wsp-1 is not open here")

    with monkeypatch.context() as patch:
        patch.setattr(owned.owner.serving, "serve", unknown)
        owned.mounts.restore_all()
    assert "one" in owned.mounts.wanted()
    owned.mounts.restore_all()
    assert (owned.path("one") / "file").read_text() == "content"


def test_what_is_unmounted_meanwhile_is_not_mounted_again(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """What should be mounted is listed, and mounted one after the other: it may be unmounted in between."""
    owned.make("one")
    path = owned.make("two")
    owned.mounts.lost(owned.owner.serving.lost([owned.engine.workspace("one").id]))
    serve = owned.owner.serving.serve

    def slow(ref: str, at: str, read_only: bool) -> None:
        if ref == "one":
            owned.mounts.umount("two")
        serve(ref, at, read_only)

    with monkeypatch.context() as patch:
        patch.setattr(owned.owner.serving, "serve", slow)
        owned.mounts.restore_all()
    assert owned.mounts.path_of("two") is None
    assert mounted_at(str(path)) is None
    with owned.mounts.unmounted("two"):
        pass


def test_a_stop_detaches_what_no_supervisor_has_heard_of(owned: Owned) -> None:
    owned.make("one")
    snapshot = owned.engine.checkpoint("one", "m").snapshot.id
    path = owned.mounts.mount(snapshot).path
    owned.mounts._table.pop(snapshot)  # as if the supervisor had died before the worker's answer
    owned.mounts._wanted.discard(snapshot)
    owned.mounts.detach_all(force=False)
    assert mounted_at(path) is None
    assert not os.path.exists(path)
