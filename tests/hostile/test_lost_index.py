"""A store whose block index is lost, cut, garbled, foreign or of another time opens, and nothing is lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from cowfs.blocks.index import BlockIndex
from cowfs.engine import Engine
from tests.hostile.store import NAMES, NOBODY, Sample, examine, make_sample
from tests.support.store import Ids, TestStore, Ticks


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample") / "store")


def _garbled(index: Path) -> None:
    data = (index / "data.mdb").read_bytes()
    (index / "data.mdb").write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))


def _cut(size: int) -> Callable[[Path], None]:
    return lambda index: os.truncate(index / "data.mdb", size)


def _foreign(index: Path) -> None:
    """The index of another store."""
    shutil.rmtree(index)
    other = TestStore(index.parent.parent / "other")
    other.engine.create("ws")
    other.close()
    shutil.copytree(other.path / "index", index)


def _another_program(index: Path) -> None:
    (index / "data.mdb").unlink()
    env = lmdb.open(str(index))
    with env.begin(write=True) as txn:
        txn.put(b"what", b"ever")
    env.close()


def _empty(index: Path) -> None:
    shutil.rmtree(index)
    BlockIndex(index, writable=True).close()


def _a_file(index: Path) -> None:
    shutil.rmtree(index)
    index.write_bytes(b"")


HARM: dict[str, Callable[[Path], object]] = {
    "no directory": shutil.rmtree,
    "no file": lambda index: (index / "data.mdb").unlink(),
    "a file": _a_file,
    "empty file": _cut(0),
    "cut in the first page": _cut(100),
    "cut to a page": _cut(4096),
    "cut to two pages": _cut(8192),
    "cut to four pages": _cut(16384),
    "garbled": _garbled,
    "not LMDB": lambda index: (index / "data.mdb").write_bytes(b"not lmdb" * 4000),
    "of another store": _foreign,
    "of another program": _another_program,
    "empty index": _empty,
    "bad lock file": lambda index: (index / "lock.mdb").write_bytes(b"x" * 3000),
    "suspected": lambda index: (index / "suspect").write_text("by a test"),
}


@pytest.mark.parametrize("harm", HARM)
def test_it_is_made_anew_and_nothing_is_lost(sample: Sample, tmp_path: Path, harm: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(sample.path, store)
    HARM[harm](store / "index")
    engine = Engine.open(store, Ticks(), Ids())
    said = str(engine.reindexed)
    engine.close()
    assert said.startswith("the block index was rebuilt from ") or harm == "bad lock file", said
    seen = examine(store)
    assert (seen.refused, seen.problems, seen.defects) == (None, 0, [])
    assert seen.trees == {name: trees[0] for name, trees in sample.trees.items()}
    assert not (store / "index" / "suspect").exists()


def test_one_of_an_older_state(tmp_path: Path) -> None:
    """It lacks what was committed since, and names segments that a collection has deleted."""
    store = TestStore(tmp_path / "store")
    for name in NAMES:
        store.engine.create(name)
    shutil.copytree(store.path / "index", tmp_path / "old")
    for name in NAMES:
        view = store.workspace(name).view
        view.mkdir(1, b"made since", 0o755, NOBODY)
        store.engine.checkpoint(name, "since")
    store.engine.settle()
    store.close()
    shutil.rmtree(store.path / "index")
    shutil.copytree(tmp_path / "old", store.path / "index")
    store.open()
    assert "it lacks root" in str(store.engine.reindexed)
    assert list(store.engine.fsck(deep=True)) == []
    store.reopen()
    assert store.engine.reindexed is None
    store.close()


def test_a_root_that_is_lost_for_real_is_looked_for_once(tmp_path: Path) -> None:
    store = TestStore(tmp_path / "store")
    store.engine.create("ws")
    store.close()
    (segment,) = (store.path / "segments").iterdir()
    segment.unlink()
    store.open()
    assert "does not exist" in str(store.engine.reindexed)
    assert list(store.engine.fsck()) != []
    store.reopen()
    assert store.engine.reindexed is None
    store.close()
