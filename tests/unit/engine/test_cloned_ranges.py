"""Ranges copied by reference: right whatever becomes of their source, and for nothing."""

from __future__ import annotations

import random

import pytest

from cowfs.geometry import PAGE
from cowfs.view import apply, sharing, view
from cowfs.view.file import OverlayFile
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


@pytest.mark.parametrize("steps", ["", "settle"])
@pytest.mark.parametrize("punched", ["before", "in the same layer"])
def test_holes_are_allocated_as_by_a_copy(lab: Lab, punched: str, steps: str) -> None:
    """However they came to be; fsck counts after what the blocks say before."""
    files, start = lab.files("ws"), 8 * PAGE
    ino = files.create("a")
    files.view.write(ino, 0, content(5)[: 64 * PAGE], ME)
    if punched == "in the same layer":
        lab.engine.checkpoint("ws", "")
        lab.do(steps)
    files.view.fallocate(ino, apply.KEEP_SIZE | apply.PUNCH_HOLE, start, 16 * PAGE, ME)
    if punched == "before":
        lab.engine.checkpoint("ws", "")
        lab.do(steps)
    clone(lab, "a", "b")
    copy = files.view.inode(files.ino("b"))
    assert isinstance(copy.data, OverlayFile)
    assert copy.blocks == 64 * PAGE // 512 == 8 * copy.data.allocated(0, 64)
    assert files.read("b") == files.read("a")
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    lab.check()


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


def scattered(lab: Lab, pages: int, step: int = PAGE) -> bytes:
    """ "a", written page by page in so many pieces, ``step`` bytes apart; its content."""
    files = lab.files("ws")
    ino = files.create("a")
    for number in range(pages):
        files.view.write(ino, number * step, number.to_bytes(4, "big") * (PAGE // 4), ME)
    return files.read("a")


def extents(lab: Lab, name: str) -> int:
    data = lab.files("ws").view.inode(lab.files("ws").ino(name)).data
    assert isinstance(data, OverlayFile)
    return len(data.dirty_ranges())


def test_doubling_a_file_onto_itself_does_not_double_what_is_held_in_memory(lab: Lab) -> None:
    """One record, one more bit of length, as many extents again: 30 records could take all memory there is."""
    scattered(lab, 64)
    files = lab.files("ws")
    ino, size = files.ino("a"), 64 * PAGE
    while size < 64 << 20:
        done = 0
        while done < size:
            done += files.view.copy_range(ino, done, ino, size + done, size - done, ME)
        size *= 2
    content = files.read("a")
    assert content == content[: 64 * PAGE] * (size // (64 * PAGE))
    assert extents(lab, "a") < size // PAGE // 2
    assert extents(lab, "a") <= lab.workspace("ws").statistics().backlog.records
    clone(lab, "a", "b")
    lab.reopen()
    assert lab.files("ws").read("a") == content == lab.files("ws").read("b")


def test_what_clones_hold_in_memory_counts_as_records_do(lab: Lab) -> None:
    """In the live layer, after a replay, and in a frozen layer until it is settled."""
    content = scattered(lab, sharing.PIECES_MAX)
    for number in range(5):
        clone(lab, "a", f"b{number}")

    def waiting() -> int:
        return lab.workspace("ws").statistics().backlog.records

    records = 6 * sharing.PIECES_MAX
    assert records < waiting() < records + 100
    for number in range(5, 150):
        assert not lab.workspace("ws").wants_freeze
        clone(lab, "a", f"b{number}")
        if lab.workspace("ws").wants_freeze:
            break
    assert lab.workspace("ws").wants_freeze, "2 s of replay"
    before = waiting()
    lab.reopen()
    assert lab.workspace("ws").wants_freeze
    assert waiting() >= before
    lab.engine.checkpoint("ws", "")
    assert waiting() >= before
    assert not lab.workspace("ws").wants_freeze
    lab.engine.settle()
    assert waiting() < 100
    assert lab.files("ws").read("b99") == content


def test_a_large_range_of_many_pieces_is_taken_by_reference_call_by_call(lab: Lab) -> None:
    content = scattered(lab, 1200, 9 * PAGE)
    files = lab.files("ws")
    ino, copy = files.ino("a"), files.create("b")
    before = lab.workspace("ws").journal.layer_bytes()
    first = files.view.copy_range(ino, 0, copy, 0, len(content), ME)
    assert view.CLONE_MIN < first < len(content)
    assert not first % PAGE
    done = first
    while done < len(content):
        done += files.view.copy_range(ino, done, copy, done, len(content) - done, ME)
    assert lab.workspace("ws").journal.layer_bytes() - before < 4 * PAGE
    assert files.read("b") == content
    lab.reopen()
    assert lab.files("ws").read("b") == content


@pytest.mark.interpreted
def test_a_journal_with_larger_clones_is_replayed_as_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cowfs that made as many extents with one record as there were."""
    content = scattered(lab, 2 * sharing.PIECES_MAX)
    with monkeypatch.context() as former:
        former.setattr(sharing, "PIECES_MAX", 1 << 30)
        clone(lab, "a", "b")
    assert extents(lab, "b") == 2 * sharing.PIECES_MAX
    lab.reopen()
    assert lab.files("ws").read("b") == content
    assert extents(lab, "b") == 2 * sharing.PIECES_MAX
    assert lab.workspace("ws").statistics().backlog.records > 4 * sharing.PIECES_MAX
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    assert lab.files("ws").read("b") == content
