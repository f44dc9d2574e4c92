"""Verbs that look at two live workspaces take their locks in one order, whichever is named first."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import pytest

from cowfs.host import Point
from tests.support.store import TestStore


class Noted:
    """A lock that notes in ``taken`` when it is taken."""

    def __init__(self, name: str, taken: list[str]) -> None:
        self.name = name
        self.taken = taken
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self.taken.append(self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def test_two_diffs_of_the_same_live_workspaces_cannot_block_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TestStore(tmp_path / "s")
    taken: list[str] = []
    ids = []
    for name in ("a", "b"):
        store.engine.create(name)
        workspace = store.workspace(name)
        monkeypatch.setattr(workspace, "lock", Noted(workspace.id, taken))
        ids.append(workspace.id)
    a, b = (Point(workspace, ()) for workspace in ids)
    store.engine.host.diff(a, b, 0)
    forth = taken.copy()
    taken.clear()
    store.engine.host.diff(b, a, 0)
    assert taken == forth == sorted(ids)
    store.close()
