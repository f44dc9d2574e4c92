"""Garbage collection: what nothing needs goes, everything else stays, whenever it comes and wherever it is cut off."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from cowfs.blocks.segments import SegmentWriter, read_segment, segment_ids, segment_path
from cowfs.engine import Engine
from cowfs.errors import Busy, Corrupt
from tests.support.lab import ME, Lab
from tests.support.treehash import TreeHash

SIZE = 20_000


def noise(seed: object, size: int = SIZE) -> bytes:
    """Bytes that do not compress."""
    return Random(f"{seed}").randbytes(size)


def collect(lab: Lab, dry_run: bool = False, progress: Callable[[dict[str, Any]], None] = lambda _: None) -> Any:
    """Collect; everything that is left must be good."""
    done = lab.engine.collect(dry_run, progress)
    lab.engine.blocks._raw.clear()
    lab.engine.blocks.nodes.clear()
    assert list(lab.engine.fsck(deep=True)) == []
    return done


def fill(lab: Lab, name: str, seeds: range) -> None:
    """A file for each seed, checkpointed and settled."""
    files = lab.files(name)
    for seed in seeds:
        files.write(f"f{seed}", noise(seed))
    lab.engine.checkpoint(name, f"with {seeds}")
    lab.engine.settle()


def doomed(lab: Lab, seeds: range) -> TreeHash:
    """The tree hash of ``ws``, beside which there is garbage: files of ``seeds``."""
    fill(lab, "ws", range(3))
    lab.engine.create("gone")
    fill(lab, "gone", seeds)
    lab.engine.remove("gone")
    return lab.hash("ws")


def test_what_nothing_needs_goes(lab: Lab) -> None:
    tree = doomed(lab, range(10, 20))
    before = lab.engine.stat()
    planned = collect(lab, dry_run=True)
    assert lab.engine.stat() == before
    done = collect(lab)
    assert (done.blocks, done.bytes) == (planned.blocks, planned.bytes)
    assert done.bytes >= 10 * SIZE
    assert lab.engine.stat().stored_bytes == before.stored_bytes - done.bytes
    assert collect(lab).blocks == 0
    assert lab.hash("ws") == tree


def test_what_something_needs_stays(lab: Lab) -> None:
    fill(lab, "ws", range(3))
    lab.engine.fork("ws", "fork")
    files = lab.files("ws")
    for seed in range(3):
        files.write(f"f{seed}", noise(seed + 100))
    trees = {name: lab.hash(name) for name in ("ws", "fork")}
    lab.engine.checkpoint("ws", "not settled")
    collect(lab)
    lab.engine.settle()
    collect(lab)
    lab.engine.remove("ws", force=True)
    collect(lab)
    assert lab.hash("fork") == trees["fork"]


@pytest.mark.parametrize(
    "moment", ["before the first look", "after it", "condemned", "before the second", "after it all"]
)
def test_blocks_that_come_to_life_again(lab: Lab, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The content of what is being collected is written once more, checkpointed and settled, at any moment."""
    doomed(lab, range(10, 20))
    done: list[str] = []

    def now(at: str) -> None:
        if at == moment and not done:
            done.append(at)
            files = lab.files("ws")
            for seed in range(10, 20):
                files.write(f"again{seed}", noise(seed))
            lab.engine.checkpoint("ws", "again")
            lab.engine.settle()

    copier, mark = lab.engine.jobs.copier, lab.engine.jobs.copier.mark

    def marking(roots: Any, inodes: Any, marks: Any, everything: bool, progress: Any) -> Any:
        now("before the first look" if everything else "before the second")
        found = mark(roots, inodes, marks, everything, progress)
        now("after it" if everything else "after it all")
        return found

    monkeypatch.setattr(copier, "mark", marking)
    collect(lab, progress=lambda line: now("condemned") if line["phase"] == "condemn" else None)
    assert done
    files = lab.files("ws")
    for seed in range(10, 20):
        assert files.read(f"again{seed}") == noise(seed)
    collect(lab)
    assert lab.files("ws").read("again10") == noise(10)


def test_blocks_handed_in_before_they_are_condemned_and_published_after_all_looks(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed(lab, range(10, 20))
    files = lab.files("ws")
    for seed in range(10, 20):
        files.write(f"again{seed}", noise(seed))
    lab.engine.checkpoint("ws", "again")
    published = lab.engine._settling._published

    def collecting(*arguments: Any) -> bool:
        lab.engine.collect(False, lambda _: None)
        return published(*arguments)

    monkeypatch.setattr(lab.engine._settling, "_published", collecting)
    lab.engine.settle()
    monkeypatch.undo()
    collect(lab)
    assert lab.files("ws").read("again10") == noise(10)


def test_an_open_file_without_a_name_keeps_its_blocks(lab: Lab) -> None:
    lab.files("ws").write("f", noise("open", 500_000))
    first = lab.engine.checkpoint("ws", "with it").snapshot.id
    lab.engine.settle()
    view = lab.workspace("ws").view
    ino = lab.files("ws").ino("f")
    view.opened(ino, False, ME)
    lab.files("ws").unlink("f")
    lab.engine.checkpoint("ws", "without it")
    lab.engine.settle()
    lab.engine.remove(first)
    collect(lab)
    assert view.read(ino, 0, 500_000) == noise("open", 500_000)
    view.released(ino, False, ME)
    assert collect(lab).bytes >= 500_000


class Cut(Exception):
    """Here the collection ends."""


def steps(engine: Engine, monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Make the step number ``at`` of a collection fail; the list of steps done grows."""
    done: list[str] = []

    def breaking(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            if len(done) == at:
                raise Cut(name)
            done.append(name)
            return call(*arguments, **options)

        return stepped

    for name in ("condemn", "commit", "sweep", "usage"):
        monkeypatch.setattr(engine.index, name, breaking(name, getattr(engine.index, name)))
    for name in ("mark", "compact"):
        monkeypatch.setattr(engine.jobs.copier, name, breaking(name, getattr(engine.jobs.copier, name)))
    return done


def test_a_collection_cut_off_at_any_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = doomed(lab, range(10, 14))
    at = 0
    while True:
        with monkeypatch.context() as patch:
            steps(lab.engine, patch, at)
            try:
                lab.engine.collect(False, lambda _: None)
                break
            except Cut:
                at += 1
        assert list(lab.engine.fsck(deep=True)) == []
        lab.kill()
        assert lab.hash("ws") == tree
        lab.files("ws").write("back", noise(10 + at % 4))  # what may be condemned is written again
        lab.engine.checkpoint("ws", f"step {at}")
        lab.engine.settle()
        assert lab.files("ws").read("back") == noise(10 + at % 4)
        lab.files("ws").unlink("back")
        tree = lab.hash("ws")
    assert at >= 5
    collect(lab)
    assert lab.hash("ws") == tree


def test_mostly_dead_segments_are_copied_together(lab: Lab) -> None:
    tree = doomed(lab, range(10, 30))
    directory = lab.engine.store.segments
    lab.engine.close()
    for segment in segment_ids(directory):
        if not read_segment(segment_path(directory, segment)).sealed:
            writer = SegmentWriter(segment_path(directory, segment), segment)
            writer.seal()
            writer.close()
    lab.engine = lab.open()
    before = set(segment_ids(directory))
    done = collect(lab)
    assert done.freed_bytes >= 15 * SIZE
    assert not before & set(segment_ids(directory))
    assert lab.hash("ws") == tree
    lab.kill()
    assert lab.hash("ws") == tree


def test_a_store_whose_blocks_cannot_be_read_is_left_alone(lab: Lab) -> None:
    doomed(lab, range(10, 20))
    root = lab.engine.log("ws")[0].root
    assert root is not None
    lab.engine.index.delete([bytes.fromhex(root)])
    before = lab.engine.index.statistics()
    with pytest.raises(Corrupt):
        lab.engine.collect(False, lambda _: None)
    assert lab.engine.index.statistics() == before
    lab.engine.remove("ws", force=True)
    lab.engine.create("ws")


def test_one_collection_at_a_time(lab: Lab) -> None:
    doomed(lab, range(10, 20))

    def again(_: dict[str, Any]) -> None:
        with pytest.raises(Busy, match="being collected already"):
            lab.engine.collect(False, lambda _: None)

    assert lab.engine.collector.worthwhile
    lab.engine.collect(False, again)
    assert not lab.engine.collector.worthwhile
