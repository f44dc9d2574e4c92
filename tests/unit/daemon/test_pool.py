"""Placement when workers end: whatever a call waits through, who serves is known afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from cowfs.errors import Busy
from cowfs.host import BranchSpec, Done
from cowfs.workspace import Env
from cowfs_daemon import pool as pool_module
from cowfs_daemon.pool import WorkerPool
from cowfs_daemon.remote import RemoteHost


class Worker:
    """The owner's side of a worker; ``meanwhile`` happens while it opens a workspace."""

    def __init__(self, env: Any, start: Any, on_loss: Callable[[Any], None]) -> None:
        self._on_loss = on_loss
        self.meanwhile: list[Callable[[], None]] = []
        self.started = True
        self.open_ones: set[str] = set()

    def lose(self) -> None:
        self._on_loss(self)

    def open(self, spec: Any, known: Any) -> Done:
        while self.meanwhile:
            self.meanwhile.pop()()
        self.open_ones.add(spec.id)
        return Done(())

    def is_open(self, workspace: str) -> bool:
        return workspace in self.open_ones

    def call(self, name: str, *arguments: object, workspaces: tuple[str, ...] = ()) -> Any:
        if not self.open_ones.issuperset(workspaces):
            raise Busy("not open")
        return name


class Spec:
    """What of a BranchSpec placement looks at."""

    id, chain = "wsp-1", ()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    monkeypatch.setattr(pool_module, "RemoteHost", Worker)
    return WorkerPool(cast(Env, None), 2, cast(Any, None), lambda worker, served: None)


def test_a_worker_that_ends_after_it_was_chosen_serves_once_it_is_there_again(pool: WorkerPool) -> None:
    """Its end forgets what it served, and with it the placement for which somebody waits already."""
    worker = cast(Worker, pool.workers[0])
    worker.meanwhile.append(worker.lose)
    pool.open(cast(BranchSpec, Spec), {})
    assert pool.is_open("wsp-1")
    assert pool.ask("wsp-1", "mount", workspace=True) == "mount"
    assert pool.served(cast(RemoteHost, worker)) == ["wsp-1"]


def test_what_its_end_closed_is_opened_again(pool: WorkerPool) -> None:
    worker = cast(Worker, pool.workers[0])
    pool.open(cast(BranchSpec, Spec), {})
    worker.open_ones.clear()
    worker.lose()
    assert not pool.is_open("wsp-1")
    with pytest.raises(Busy):
        pool.ask("wsp-1", "mount", workspace=True)
    pool.open(cast(BranchSpec, Spec), {})
    assert pool.is_open("wsp-1")
