"""What descriptors and the kernel's knowledge of an inode mean for the journal, and for a replay of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cowfs import workspace as workspaces
from cowfs.view import descriptors
from cowfs.view.view import View
from tests.support.memory import ME, MemoryWorkspace

REGULAR = 0o100644


@pytest.fixture
def made(tmp_path: Path) -> MemoryWorkspace:
    return MemoryWorkspace(tmp_path)


@pytest.fixture
def view(made: MemoryWorkspace) -> View:
    return made.workspace.view


def linked(made: MemoryWorkspace, ino: int) -> tuple[bytes, int, int]:
    """(content, link count, blocks) of "name" in a replay, after making it in the live view."""
    made.workspace.view.link(ino, 1, b"name", ME)
    replayed = made.replayed().view
    found = replayed.lookup(1, b"name")
    assert found is not None
    return replayed.read(found.ino, 0, 100), found.nlink, found.blocks


def test_a_nameless_file_that_only_the_kernel_knows_can_still_get_a_name(made: MemoryWorkspace, view: View) -> None:
    """open(O_TMPFILE), a second descriptor with O_PATH, close of the first, linkat of the second."""
    ino = view.tmpfile(1, 0o600, ME).ino
    view.state.pinned = {ino}
    view.opened(ino, True, ME)
    view.write(ino, 0, b"written", ME)
    view.released(ino, True, ME)
    assert linked(made, ino) == (b"written", 1, 8)


def nameless(made: MemoryWorkspace, view: View, replaced: bool, frozen: bool) -> int:
    """The number of a file, ``written``, that nobody has open, but the kernel knows, and that lost its name."""
    ino = view.mknod(1, b"was", REGULAR, 0, ME).ino
    view.write(ino, 0, b"written", ME)
    view.state.pinned = {ino}
    if replaced:
        view.mknod(1, b"new", REGULAR, 0, ME)
        view.rename(1, b"new", 1, b"was", 0, ME)
    else:
        view.unlink(1, b"was", ME)
    if frozen:
        made.checkpoint()
    return ino


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_lost_its_name_lives_on_but_gets_no_other(
    made: MemoryWorkspace, view: View, frozen: bool, replaced: bool
) -> None:
    ino = nameless(made, view, replaced, frozen)
    view.write(ino, 7, b" later", ME)
    assert view.read(ino, 0, 100) == b"written later"
    with pytest.raises(OSError) as refused:
        view.link(ino, 1, b"name", ME)
    assert refused.value.errno == errno.ENOENT
    made.replayed()
    view.forget(ino)
    with pytest.raises(OSError) as caught:
        view.inode(ino)
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("writable", [False, True])
def test_what_is_opened_after_it_lost_its_name_is_known_to_a_successor(
    made: MemoryWorkspace, view: View, replaced: bool, frozen: bool, writable: bool
) -> None:
    """Of an open() that another program's unlink overtook, or of /proc/self/fd/N of a descriptor with O_PATH."""
    ino = nameless(made, view, replaced, frozen)
    view.opened(ino, writable, ME)
    view.write(ino, 7, b" later", ME)
    assert made.replayed().view.read(ino, 0, 100) == b"written later"
    view.released(ino, writable, ME)
    view.opened(ino, writable, ME)
    assert made.replayed().view.read(ino, 0, 100) == b"written later", "opened once more"
    made.checkpoint()
    assert made.replayed().view.read(ino, 0, 100) == b"written later", "still open in the next layer"
    view.released(ino, writable, ME)
    view.forget(ino)
    assert not made.replayed().view.state.orphans


def test_opening_what_lost_its_name_writes_so_much_again_and_no_more(
    made: MemoryWorkspace, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "CARRIED_BYTES_MAX", 10_000)
    inos = [view.mknod(1, b"%d" % number, REGULAR, 0, ME).ino for number in range(3)]
    view.state.pinned = set(inos)
    for number, ino in enumerate(inos):
        view.write(ino, 0, bytes(4000), ME)
        view.unlink(1, b"%d" % number, ME)
        view.opened(ino, False, ME)
    assert sorted(made.replayed().view.state.orphans) == inos[:2]
    made.checkpoint()
    assert sorted(made.replayed().view.state.orphans) == inos[:2], "a new layer, the same bound"


@pytest.mark.interpreted
def test_a_release_that_cannot_be_journaled_has_happened(
    made: MemoryWorkspace, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = view.mknod(1, b"f", REGULAR, 0, ME).ino
    view.opened(ino, True, ME)
    view.unlink(1, b"f", ME)
    with monkeypatch.context() as full:

        def append(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        full.setattr(made.workspace.journal, "append", append)
        with pytest.raises(OSError, match="full"):
            view.released(ino, True, ME)
    with pytest.raises(OSError) as caught:
        view.inode(ino)
    assert caught.value.errno == errno.ESTALE
    assert not view.state.opens


def test_descriptors_alone_cannot_make_a_journal_grow_for_ever(
    made: MemoryWorkspace, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "LIVE_RECORDS_MAX", 100)
    ino = view.mknod(1, b"f", REGULAR, 0, ME).ino
    made.checkpoint()
    for _ in range(50):
        assert not made.workspace.wants_freeze
        view.opened(ino, True, ME)
        view.released(ino, True, ME)
    assert made.workspace.wants_freeze
    assert len(made.workspace.freeze("next").layers) == 1
    assert not made.workspace.wants_freeze
    assert not made.workspace.view.state.live


def test_what_is_open_for_writing_is_known_after_a_restore_and_a_replay(made: MemoryWorkspace, view: View) -> None:
    ino = view.mknod(1, b"f", REGULAR, 0, ME).ino
    layer = made.checkpoint()
    view.opened(ino, True, ME)
    made.workspace.restore(workspaces.RestoreOrder("snap-1", layer, "next", None))
    for each in (made.workspace, made.replayed()):
        assert list(each.view.state.opens) == [ino]
