"""What is known of the last request after a process has died, whatever came between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.formats import journal as j
from cowfs.layers.answers import ATTRIBUTES, COUNT, DONE, MADE, NOTHING, Answer, answer_to
from cowfs.view.inode import Caller, SetAttr
from tests.support.store import TestStore

KEY = {"connection": 7, "unique": 42}
WHO = Caller(**KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TestStore]:
    made = TestStore(tmp_path / "store")
    made.engine.create("ws")
    yield made
    assert not made.engine.fsck(deep=True)
    made.close()


def test_the_last_request_counts_alone(store: TestStore) -> None:
    view = store.workspace("ws").view
    ino = view.mknod(1, b"first", 0o100644, 0, Caller(connection=7, unique=40)).ino
    view.write(ino, 0, b"12345", WHO)
    store.reopen()
    workspace = store.workspace("ws")
    assert workspace.answer(7, 42) == Answer(7, 42, COUNT, ino, 5)
    assert workspace.answer(7, 40) is None
    assert workspace.answer(8, 42) is None


def test_it_is_known_through_freezing_and_settling_until_another_request(store: TestStore) -> None:
    made = store.workspace("ws").view.mkdir(1, b"new", 0o755, WHO).ino
    for turn in range(3):
        store.reopen()
        assert store.workspace("ws").answer(7, 42) == Answer(7, 42, MADE, made)
        store.engine.checkpoint("ws", f"turn {turn}", allow_empty=True)
        store.engine.settle()
    store.workspace("ws").view.rmdir(1, b"new", Caller(connection=7, unique=44))
    store.reopen()
    assert store.workspace("ws").answer(7, 42) is None
    assert store.workspace("ws").answer(7, 44) == Answer(7, 44, DONE)


def test_a_created_file_is_open_for_writing_after_a_death(store: TestStore) -> None:
    made = store.workspace("ws").view.create(1, b"new", 0o640, WHO)
    before = (made.mode, made.links, made.ctime, made.size)
    store.reopen()
    workspace = store.workspace("ws")
    assert workspace.answer(7, 42) == Answer(7, 42, MADE, made.ino)
    found = workspace.view.inode(made.ino)
    assert (found.mode, found.links, found.ctime, found.size) == before
    assert workspace.view.taken_over()[1].keys() == {made.ino}


def test_it_is_known_after_a_restore(store: TestStore) -> None:
    taken = store.engine.checkpoint("ws", "empty", allow_empty=True).snapshot.id
    made = store.workspace("ws").view.mkdir(1, b"new", 0o755, WHO).ino
    store.reopen()
    store.engine.restore("ws", taken)
    store.reopen()
    assert store.workspace("ws").answer(7, 42) == Answer(7, 42, MADE, made)


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ((j.Make(1, 5, 0o100644, 0, 0, 0, b"n", b"", b""),), MADE),
        ((j.Make(1, 5, 0o100644, 0, 0, 0, b"n", b"", b""), j.Opened(5, 1, 1)), MADE),
        ((j.Create(1, 5, 0o100644, 0, 0, b"n", b""),), MADE),
        ((j.SetAttributes(5, j.SET_SIZE, 0, 0, 0, 0, 0, 0, 0), j.Opened(5, 1, 1)), ATTRIBUTES),
        ((j.Opened(5, 1, 1),), NOTHING),
        ((j.Opened(5, 0, 0), j.OrphanEnd(5)), NOTHING),
        ((j.Orphan(5, 0, 0, b"", b"data"), j.Link(5, 1, b"n")), MADE),
        ((j.Orphan(5, 0, 0, b"", b"data"),), NOTHING),
        ((j.CloneRange(4, 0, 5, 0, 9, b""),), COUNT),
        ((j.SetXattr(5, 0o644, b"user.a", b""),), DONE),
        ((j.Rename(1, 1, 5, 0, 0, 0, 0, 0, 0, b"a", b"b"),), DONE),
    ],
)
def test_kinds(records: tuple[j.Record, ...], kind: int) -> None:
    envelopes = [j.Envelope(number, 0, 0, 7, 42, record) for number, record in enumerate(records, 1)]
    answer = answer_to(envelopes)
    assert answer[:3] == (7, 42, kind)
    if kind == COUNT:
        assert answer.size == 9


def test_an_attribute_change_is_answered_with_the_inode(store: TestStore) -> None:
    view = store.workspace("ws").view
    view.setattr(1, SetAttr(mode=0o700), WHO)
    store.reopen()
    assert store.workspace("ws").answer(7, 42) == Answer(7, 42, ATTRIBUTES, 1)
