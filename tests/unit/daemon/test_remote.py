"""The owner's side of a worker: what it believes to be open is open in the worker that there is now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from cowfs.host import BranchSpec, Done
from cowfs.workspace import Env
from cowfs_daemon.ports import WorkerGone
from cowfs_daemon.remote import RemoteHost, WorkerProcess


class Process:
    """A worker; ``then`` happens after it has answered, before its answer is taken in."""

    live = started = True

    def __init__(self, on_end: Any) -> None:
        self.on_end = on_end
        self.then: Callable[[], None] | None = None

    def call(self, name: str, *arguments: object) -> Done:
        if self.then is not None:
            self.then()
        return Done(())

    def close(self) -> int:
        self.live = False
        return -9


class Spec:
    """What of a BranchSpec matters here."""

    id = "wsp-1"


def test_what_a_worker_opened_that_has_ended_is_not_open() -> None:
    made: list[Process] = []

    def start(on_end: Any) -> WorkerProcess:
        made.append(Process(on_end))
        return cast(WorkerProcess, made[-1])

    host = RemoteHost(cast(Env, None), start, lambda _: None)

    def end() -> None:
        made[0].live = False
        made[0].on_end()
        host.replace()

    made[0].then = end
    with pytest.raises(WorkerGone):
        host.open(cast(BranchSpec, Spec), {})
    assert not host.is_open("wsp-1")
    host.open(cast(BranchSpec, Spec), {})
    assert host.is_open("wsp-1")
