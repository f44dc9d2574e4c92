"""Files that are open and have no name, through every verb: they live as long as a descriptor, and in no snapshot."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.view.inode import Caller
from tests.property.operations import pattern
from tests.support.store import TestStore

WHO = Caller()
SIZE = 300_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TestStore]:
    made = TestStore(tmp_path / "store")
    made.engine.create("ws")
    yield made
    assert not made.engine.fsck(deep=True)
    made.close()


def open_unlinked(store: TestStore) -> int:
    """A file of SIZE bytes, settled, open for writing, then unlinked."""
    view = store.workspace("ws").view
    ino = view.mknod(1, b"file", 0o100644, 0, WHO).ino
    view.write(ino, 0, pattern(1, SIZE), WHO)
    store.engine.checkpoint("ws", "with the file")
    store.engine.settle()
    view.opened(ino, True, WHO)
    view.unlink(1, b"file", WHO)
    return ino


def test_unlink_while_open_checkpoint_settle_read(store: TestStore) -> None:
    ino = open_unlinked(store)
    view = store.workspace("ws").view
    for turn in range(3):
        taken = store.engine.checkpoint("ws", "without the file", allow_empty=True).snapshot
        store.engine.settle()
        assert view.read(ino, 0, SIZE) == expected(turn)
        assert view.inode(ino).nlink == 0
        view.write(ino, turn * 1000, b"after", WHO)
        fork = store.engine.fork(taken.id, f"fork-{turn}")[0]
        with pytest.raises(OSError) as caught:
            store.workspace(fork.name).view.inode(ino)
        assert caught.value.errno == errno.ESTALE
    view.released(ino, True, WHO)
    with pytest.raises(OSError) as caught:
        view.inode(ino)
    assert caught.value.errno == errno.ESTALE


def expected(turn: int) -> bytes:
    """The file after ``turn`` writes of "after"."""
    data = bytearray(pattern(1, SIZE))
    for number in range(turn):
        data[number * 1000 : number * 1000 + 5] = b"after"
    return bytes(data)


def test_a_restore_brings_the_name_back_and_the_descriptor_goes_on(store: TestStore) -> None:
    ino = open_unlinked(store)
    view = store.workspace("ws").view
    view.write(ino, 0, b"lost", WHO)
    store.engine.restore("ws", "ws@-1")
    view = store.workspace("ws").view
    found = view.lookup(1, b"file")
    assert found is not None
    assert found.ino == ino
    assert view.read(ino, 0, SIZE) == pattern(1, SIZE)
    view.write(ino, 0, b"kept", WHO)
    view.released(ino, True, WHO)
    assert view.read(ino, 0, 4) == b"kept"


@pytest.mark.parametrize("reopen", [False, True])
def test_a_temporary_file_linked_layers_later_has_its_content(store: TestStore, reopen: bool) -> None:
    view = store.workspace("ws").view
    ino = view.tmpfile(1, 0o600, WHO).ino
    view.opened(ino, True, WHO)
    view.write(ino, 5000, pattern(2, SIZE), WHO)
    for _ in range(2):
        store.engine.checkpoint("ws", "a layer in between", allow_empty=True)
        store.engine.settle()
    view.link(ino, 1, b"named", WHO)
    view.released(ino, True, WHO)
    taken = store.engine.checkpoint("ws", "with the name").snapshot
    if reopen:
        store.reopen()
    store.engine.settle()
    store.engine.fork(taken.id, "fork")
    for name in ("ws", "fork"):
        view = store.workspace(name).view
        found = view.lookup(1, b"named")
        assert found is not None
        assert (found.ino, found.nlink, found.size) == (ino, 1, 5000 + SIZE)
        assert view.read(ino, 0, 5000 + SIZE) == bytes(5000) + pattern(2, SIZE)
        assert view.seek(ino, 0, 3) == 4096
