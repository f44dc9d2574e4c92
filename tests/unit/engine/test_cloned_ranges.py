"""Ranges copied by reference: right whatever becomes of their source, and for nothing."""

from __future__ import annotations

import random

import pytest

from tests.support.lab import ME, Lab

MEGABYTES = 3


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(MEGABYTES << 20)


def stored_bytes(lab: Lab) -> int:
    """What the store's segments take."""
    return sum(path.stat().st_size for path in (lab.path / "segments").iterdir())


def clone(lab: Lab, source: str, target: str, workspace: str = "ws") -> None:
    files = lab.files(workspace)
    files.create(target)
    done, size = 0, len(files.read(source))
    while done < size:
        done += files.view.copy_range(files.ino(source), done, files.ino(target), done, size - done, ME)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_clone_stays_what_it_was(lab: Lab, settled: bool, frozen: bool) -> None:
    data = content(1)
    lab.files("ws").write("a", data)
    if frozen:
        lab.engine.checkpoint("ws", "")
    if settled:
        lab.engine.settle()
    clone(lab, "a", "b")
    lab.files("ws").write("a", b"changed", 1 << 20)
    clone(lab, "b", "c")
    lab.files("ws").write("b", b"changed too", 2 << 20)
    wanted = {
        "a": data[: 1 << 20] + b"changed" + data[(1 << 20) + 7 :],
        "b": data[: 2 << 20] + b"changed too" + data[(2 << 20) + 11 :],
        "c": data,
    }
    for step in ("live", "reopened", "checkpoint", "settled", "reopened", "collected", "fork"):
        if step == "reopened":
            lab.reopen()
        elif step == "checkpoint":
            lab.engine.checkpoint("ws", "")
        elif step == "settled":
            lab.engine.settle()
        elif step == "collected":
            lab.engine.collect(False, lambda done: None)
        elif step == "fork":
            lab.engine.fork("ws", "fork")
            assert {name: lab.files("fork").read(name) for name in wanted} == wanted
        assert {name: lab.files("ws").read(name) for name in wanted} == wanted, step


def test_a_clone_outlives_the_blocks_of_its_source(lab: Lab) -> None:
    """Not settled yet, it lies on blocks that no root may name any more."""
    data = content(2)
    lab.files("ws").write("a", data)
    first = lab.engine.checkpoint("ws", "").snapshot.id
    lab.engine.settle()
    clone(lab, "a", "b")
    lab.files("ws").unlink("a")
    lab.engine.checkpoint("ws", "")
    lab.engine.remove(first)
    lab.engine.collect(False, lambda done: None)
    assert lab.files("ws").read("b") == data
    lab.engine.settle()
    lab.engine.collect(False, lambda done: None)
    assert lab.files("ws").read("b") == data
    lab.reopen()
    assert lab.files("ws").read("b") == data


def test_a_clone_takes_no_journal_and_no_blocks(lab: Lab) -> None:
    lab.files("ws").write("a", content(3))
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    journal = lab.workspace("ws").journal
    before, stored = journal.layer_bytes(), stored_bytes(lab)
    clone(lab, "a", "b")
    assert journal.layer_bytes() - before < 4096
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    assert stored_bytes(lab) - stored < 64 * 1024
    assert lab.files("ws").read("b") == content(3)


def test_an_open_file_without_a_name_is_copied(lab: Lab) -> None:
    """A successor might not know it: its bytes go into the journal."""
    data = content(4)
    files = lab.files("ws")
    files.write("a", data)
    ino = files.ino("a")
    files.view.opened(ino, True, ME)
    files.unlink("a")
    files.create("b")
    assert files.view.copy_range(ino, 0, files.ino("b"), 0, len(data), ME) == 1 << 20
    lab.reopen()
    assert lab.files("ws").read("b") == data[: 1 << 20]
