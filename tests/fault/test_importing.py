"""Imports beside everything else: nobody waits for one, its death is its own, and collections spare its blocks."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cowfs.engine import Engine
from cowfs.results import Workspace
from cowfs.settle.importer import PROGRESS_FILES
from cowfs.settle.process import SettlerDied
from tests.support.lab import Lab

WAIT_S = 60.0
CONTENTS = [Random(number).randbytes(20_000) for number in range(8)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree of more inodes than are imported without a word."""
    top = tmp_path / "source"
    top.mkdir()
    for number in range(2 * PROGRESS_FILES):
        (top / f"f{number}").write_bytes(CONTENTS[number % len(CONTENTS)])
    return top


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "store", inline=False)
    yield lab
    lab.close()


class Held:
    """An import that has begun, and stands still within ``with``. ``made()`` waits for its end afterwards."""

    def __init__(self, engine: Engine, source: Path, name: str = "imported") -> None:
        self._begun, self._on = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._future = self._thread.submit(engine.import_tree, os.fsencode(source), name, (), self._progress)

    def _progress(self, _: dict[str, Any]) -> None:
        self._begun.set()
        assert self._on.wait(WAIT_S)

    def __enter__(self) -> Held:
        assert self._begun.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._on.set()
        self._thread.shutdown()

    def made(self) -> Workspace:
        """What came of it."""
        return self._future.result()


def soon(work: Callable[[], object]) -> None:
    """``work`` ends although the import stands still. Raises TimeoutError."""
    thread = ThreadPoolExecutor(1)
    try:
        thread.submit(work).result(WAIT_S / 2)
    finally:
        thread.shutdown(wait=False)


def fill(store: Lab, name: str, message: str = "m") -> None:
    """All contents in a workspace, in a snapshot."""
    workspace, files = store.workspace(name), store.files(name)
    with workspace.lock:
        for number, content in enumerate(CONTENTS):
            files.write(f"{message}{number}", content)
    store.engine.checkpoint(name, message)


def expect(store: Lab, name: str = "imported") -> None:
    """The imported files are what they were, on disk."""
    store.engine.blocks._raw.clear()
    for number in range(2 * PROGRESS_FILES):
        found = b"".join(store.engine.show(name, b"f%d" % number))
        assert found == CONTENTS[number % len(CONTENTS)]
    assert [str(problem) for problem in store.engine.fsck(deep=True)] == []


def test_creating_and_settling_go_on_beside_an_import(store: Lab, source: Path) -> None:
    engine = store.engine
    engine.create("ws")
    with Held(engine, source) as importing:
        soon(lambda: engine.create("other"))
        fill(store, "ws")  # the same blocks as those of the import
        soon(engine.settle)
        assert engine.unsettled() == []
        engine.remove("ws")
        soon(lambda: engine.collect(False, lambda _: None))
    assert importing.made().name == "imported"
    engine.collect(False, lambda _: None)
    expect(store)


def test_blocks_that_go_during_an_import_are_written_again(store: Lab, source: Path) -> None:
    """It relied on them, and nothing else does any more."""
    engine = store.engine
    engine.create("ws")
    fill(store, "ws")
    engine.settle()
    with Held(engine, source) as importing:
        engine.remove("ws")
        assert engine.collect(False, lambda _: None).blocks >= len(CONTENTS)
    importing.made()
    expect(store)


def test_what_an_import_handed_in_is_spared_until_it_is_published(
    store: Lab, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a settling, begun and ended meanwhile, lets its own go."""
    engine = store.engine
    engine.create("ws")
    operations = engine.images.operations

    def between(*arguments: Any) -> Any:
        fill(store, "ws", "other")
        engine.settle()
        engine.collect(False, lambda _: None)
        return operations(*arguments)

    monkeypatch.setattr(engine.images, "operations", between)
    engine.import_tree(os.fsencode(source), "imported", (), lambda _: None)
    engine.collect(False, lambda _: None)
    expect(store)


def test_a_killed_import_takes_nothing_with_it(store: Lab, source: Path) -> None:
    engine = store.engine
    engine.create("ws")
    settler = engine.settler.statistics()
    with Held(engine, source) as importing:
        assert engine.jobs.importer.statistics().pid not in (None, settler.pid)
        engine.jobs.importer.kill()
        fill(store, "ws")
        soon(engine.settle)
    with pytest.raises(SettlerDied):
        importing.made()
    assert [each.name for each in engine.list()] == ["ws"]
    assert list(engine.store.tmp.iterdir()) == []
    after = engine.settler.statistics()
    assert (after.pid, after.starts, after.failed) == (settler.pid, settler.starts, 0)
    engine.collect(False, lambda _: None)
    engine.import_tree(os.fsencode(source), "imported", (), lambda _: None)
    expect(store)


def test_a_killed_settler_leaves_the_import_alone(store: Lab, source: Path) -> None:
    engine = store.engine
    engine.create("ws")
    with Held(engine, source) as importing:
        engine.settler.kill()
        soon(lambda: engine.create("other"))
    importing.made()
    expect(store)


def test_an_owner_that_died_during_an_import_begins_again(store: Lab, source: Path, tmp_path: Path) -> None:
    """What the import wrote is in no index; what was settled beside it is there, and their segments are written on."""
    store.engine.create("ws")
    with Held(store.engine, source) as importing:
        fill(store, "ws")
        store.engine.settle()
        shutil.copytree(store.path, tmp_path / "left")
    importing.made()
    left = Lab.existing(tmp_path / "left", inline=False)
    assert [each.name for each in left.engine.list()] == ["ws"]
    assert b"".join(left.engine.show("ws", b"m0")) == CONTENTS[0]
    left.engine.import_tree(os.fsencode(source), "imported", (), lambda _: None)
    left.engine.collect(False, lambda _: None)
    expect(left)
    left.close()
