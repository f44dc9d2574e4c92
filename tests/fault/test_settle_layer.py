"""Settling a frozen layer while the settler is killed: the workspace goes on, and the root is the same in the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cowfs.blocks.index import BlockIndex
from cowfs.engine import Engine
from cowfs.settle.process import SettlerDied
from cowfs.view.inode import Caller
from cowfs.workspace import Workspace

FILES = 200


def open_engine(path: Path) -> Engine:
    """A store whose clock and ids count, so that two stores with the same history are equal."""
    ticks, numbers = itertools.count(10**18, 10**9), itertools.count(1)
    Engine.create_store(path, lambda: next(ticks), bytes(16))
    return Engine.open(path, lambda: next(ticks), lambda prefix: f"{prefix}-{next(numbers):06d}")


def fill(engine: Engine) -> Workspace:
    """A workspace with one frozen layer: files of one block and of several, a directory, a removed file."""
    engine.create("ws")
    workspace = engine.host.workspace(engine.open_workspace("ws"))
    assert isinstance(workspace, Workspace)
    with workspace.lock:
        view, caller = workspace.view, Caller()
        directory = view.mkdir(1, b"dir", 0o755, caller)
        for number in range(FILES):
            file = view.mknod(directory.ino, b"%d" % number, 0o100644, 0, caller)
            view.write(file.ino, 0, b"%d " % number * (50_000 if number % 50 == 0 else 300), caller)
        view.unlink(directory.ino, b"7", caller)
    engine.checkpoint("ws", "filled")
    return workspace


def content_of(workspace: Workspace) -> dict[bytes, bytes]:
    """Every file of the directory, through the view."""
    with workspace.lock:
        view = workspace.view
        directory = view.lookup(1, b"dir")
        assert directory is not None
        files = [(name, ino) for _, name, ino, _ in view.readdir(directory.ino, 2)]
        return {name: view.read(ino, 0, 1 << 20) for name, ino in files}


def expected() -> dict[bytes, bytes]:
    return {b"%d" % n: b"%d " % n * (50_000 if n % 50 == 0 else 300) for n in range(FILES) if n != 7}


@pytest.fixture
def roots(tmp_path: Path) -> list[str | None]:
    """The roots of a store in which nothing went wrong."""
    engine = open_engine(tmp_path / "calm")
    fill(engine)
    engine.settle()
    found = [snapshot.root for snapshot in engine.log("ws")]
    engine.close()
    assert all(found)
    return found


@pytest.mark.parametrize("instant", ["segment", "before commit", "after commit"])
def test_killed_while_settling(
    tmp_path: Path, roots: list[str | None], instant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = BlockIndex.commit
    armed: list[Engine] = []

    def kill(*_: object) -> None:
        for owner in armed:
            owner.settler.kill()

    def killing(index: BlockIndex, records: Iterable[Any], relied_on: Iterable[bytes] = ()) -> list[bytes]:
        if instant == "before commit":
            kill()
        gone = commit(index, records, relied_on)
        kill()
        return gone

    monkeypatch.setattr(BlockIndex, "commit", killing)
    engine = open_engine(tmp_path / "store")
    workspace = fill(engine)
    before = engine.settler.statistics()
    if instant == "segment":
        take = engine.jobs.segments.take
        monkeypatch.setattr(engine.jobs.segments, "take", lambda: (take(), kill())[0])  # type: ignore[func-returns-value]
    armed.append(engine)
    with pytest.raises(SettlerDied):
        engine.settle()
    armed.clear()
    assert [snapshot.root for snapshot in engine.log("ws")] == [None]
    assert content_of(workspace) == expected()
    engine.settle()
    assert [snapshot.root for snapshot in engine.log("ws")] == roots
    assert content_of(workspace) == expected()
    assert engine.settler.statistics().starts == before.starts + 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    engine.close()


def test_the_journal_is_read_again_after_a_restart(tmp_path: Path, roots: list[str | None]) -> None:
    engine = open_engine(tmp_path / "store")
    fill(engine)
    engine.close()
    numbers = itertools.count(1000)
    engine = Engine.open(tmp_path / "store", lambda: 2 * 10**18, lambda prefix: f"{prefix}-{next(numbers)}")
    engine.settle()
    assert [snapshot.root for snapshot in engine.log("ws")] == roots
    workspace = engine.host.workspace(engine.open_workspace("ws"))
    assert isinstance(workspace, Workspace)
    assert content_of(workspace) == expected()
    engine.close()
