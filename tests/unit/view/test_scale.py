"""Work must not grow with what merely exists: many layers, many names, many changes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from cowfs.diff import Difference, difference
from cowfs.layers.layer import Layer
from cowfs.results import Change
from cowfs.view.directory import OverlayDirectory
from cowfs.view.state import State
from cowfs.view.view import View
from tests.support.memory import ME, MemoryWorkspace

DEEP = 1100
"""Layers, or directories, more than Python's recursion limit."""

REGULAR = 0o100644


@pytest.fixture
def made(tmp_path: Path) -> MemoryWorkspace:
    return MemoryWorkspace(tmp_path)


@pytest.fixture
def view(made: MemoryWorkspace) -> View:
    return made.workspace.view


def frozen(made: MemoryWorkspace, layer: Layer) -> State:
    """A state to look at a layer."""
    return State(made.blocks, made.geometry, layer)


def changes_since(made: MemoryWorkspace, layer: Layer) -> list[Change]:
    """The difference between a layer and what is live."""
    return difference(Difference(frozen(made, layer), made.workspace.view.state, layer.next_ino))


def names(view: View, ino: int) -> set[bytes]:
    """What a directory lists, without . and .."""
    listed = [name for _, name, _, _ in view.readdir(ino)]
    assert len(listed) == len(set(listed))
    return set(listed) - {b".", b".."}


def test_many_unsettled_checkpoints_can_be_read_compared_and_replayed(made: MemoryWorkspace, view: View) -> None:
    directory = view.mkdir(1, b"d", 0o755, ME).ino
    ino = view.mknod(directory, b"f", REGULAR, 0, ME).ino
    for number in range(DEEP):
        view.write(ino, number % 300 * 4096, number.to_bytes(2, "big") * 2048, ME)
        view.mknod(directory, b"%d" % number, REGULAR, 0, ME)
        if number:
            view.unlink(directory, b"%d" % (number - 1), ME)
        made.checkpoint()
    last = {number % 300: number for number in range(DEEP)}
    expected = b"".join(last[page].to_bytes(2, "big") * 2048 for page in range(300))
    for each in (view, made.replayed().view):
        assert each.read(ino, 0, 2 << 20) == expected
        assert names(each, directory) == {b"f", b"%d" % (DEEP - 1)}
    old = frozen(made, made.layers[600])
    assert old.file(old.inode(ino)).read(0, 2) == (300).to_bytes(2, "big")
    assert [entry.name for entry in old.directory(old.inode(directory)).entries(2) if entry.name != b"f"] == [b"599"]
    assert changes_since(made, made.layers[600]) == [
        Change("added", b"d/%d" % (DEEP - 1)), Change("removed", b"d/599"), Change("modified", b"d/f")
    ]  # fmt: skip


@pytest.mark.parametrize("overwritten", [False, True])
def test_a_clone_of_a_clone_of_a_clone_in_unsettled_layers_can_be_read(
    made: MemoryWorkspace, view: View, overwritten: bool
) -> None:
    content = bytes(range(256)) * 128
    before = view.mknod(1, b"0", REGULAR, 0, ME).ino
    view.write(before, 0, content, ME)
    for number in range(1, DEEP):
        made.checkpoint()
        ino = view.mknod(1, b"%d" % number, REGULAR, 0, ME).ino
        assert view.copy_range(before, 0, ino, 0, len(content), ME) == len(content)
        if overwritten:
            content = b"new" + content[3:-3] + b"%03d" % (number % 1000)
            view.write(ino, 0, content[:3], ME)
            view.write(ino, len(content) - 3, content[-3:], ME)
        before = ino
    assert made.workspace.journal.layer_bytes() < 2 * len(content)
    for each in (view, made.replayed().view):
        assert each.read(before, 0, 1 << 20) == content


def test_deeply_nested_directories_have_paths(made: MemoryWorkspace, view: View) -> None:
    base = made.checkpoint()
    parent = 1
    for _ in range(DEEP):
        parent = view.mkdir(parent, b"d", 0o755, ME).ino
    found = changes_since(made, base)
    assert [change.path for change in found] == [b"/".join([b"d"] * depth) for depth in range(1, DEEP + 1)]


def test_every_name_of_a_file_with_many_is_reported(made: MemoryWorkspace, view: View) -> None:
    ino = view.mknod(1, b"0", REGULAR, 0, ME).ino
    for number in range(1, 5000):
        view.link(ino, 1, b"%d" % number, ME)
    base = made.checkpoint()
    view.write(ino, 0, b"x", ME)
    assert {(change.change, change.path) for change in changes_since(made, base)} == {
        ("modified", b"%d" % number) for number in range(5000)
    }
    view.rename(1, b"7", 1, b"seven", 0, ME)
    view.unlink(1, b"8", ME)
    found = changes_since(made, base)
    assert Change("renamed", b"seven", b"7") in found
    assert Change("removed", b"8") in found
    for number in range(10, 5000):
        view.unlink(1, b"%d" % number, ME)
    links = view.inode(ino).links
    assert sorted(links) == list(links) == [(1, name) for name in sorted(names(view, 1))]
    assert frozen(made, base).inode(ino).nlink == len(frozen(made, base).inode(ino).links) == 5000


@pytest.mark.parametrize("stored", [False, True])
def test_a_directory_can_be_listed_and_emptied_piece_by_piece(made: MemoryWorkspace, view: View, stored: bool) -> None:
    for number in range(5000):
        view.mknod(1, b"%d" % number, REGULAR, 0, ME)
    if stored:
        made.checkpoint()
    cookie, seen = 0, 0
    while piece := list(islice(view.readdir(1, cookie), 50)):
        cookie = piece[-1][0]
        for _, name, _, _ in piece:
            if name not in (b".", b".."):
                view.unlink(1, name, ME)
                seen += 1
    assert seen == 5000
    assert names(view, 1) == set()


def test_names_that_come_and_go_leave_nothing_behind(made: MemoryWorkspace, view: View) -> None:
    view.mknod(1, b"stays", REGULAR, 0, ME)
    made.checkpoint()
    for number in range(3000):
        view.mknod(1, b"%d" % number, REGULAR, 0, ME)
        assert len(names(view, 1)) == 2
        view.unlink(1, b"%d" % number, ME)
    directory = view.state.directory(view.inode(1))
    assert isinstance(directory, OverlayDirectory)
    assert not directory.changes()
    assert len(directory) == 1


def test_a_name_of_the_base_that_went_came_and_went_is_gone(made: MemoryWorkspace, view: View) -> None:
    view.mknod(1, b"a", REGULAR, 0, ME)
    made.checkpoint()
    for _ in range(3):
        view.unlink(1, b"a", ME)
        assert names(view, 1) == set()
        assert view.lookup(1, b"a") is None
        view.mknod(1, b"a", REGULAR, 0, ME)
        assert names(view, 1) == {b"a"}
