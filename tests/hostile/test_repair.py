"""A store one of whose files was changed, cut or removed, repaired: it opens and works, nothing undamaged is lost.

What fsck says of files is exactly what cannot be read of them.
"""

import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cowfs.blocks.segments import segment_path
from cowfs.engine import Engine
from cowfs.errors import Busy, CowfsError
from cowfs.fsck.problem import Problem
from cowfs.repair import repair_store
from tests.hostile.damage import Round, _pages
from tests.hostile.mutate import mutate
from tests.hostile.store import NOBODY, Sample, _later_ids, examine, make_sample
from tests.support.faults import Call, intercepted
from tests.support.store import TestStore, Ticks

ROUNDS = {"control": 12, "journals": 12, "segments": 12, "index": 8}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample") / "store")


def opened(path: Path) -> Engine:
    return Engine.open(path, Ticks(1_900_000_000_000_000_000), _later_ids())


@pytest.mark.parametrize("kind", ROUNDS)
def test_after_a_repair_it_works(sample: Sample, tmp_path: Path, kind: str) -> None:
    for number in range(ROUNDS[kind]):
        one = Round(sample, tmp_path, f"repair {kind} {number}")
        file = one.file(kind)
        if one.random.randrange(8):
            change: Callable[[Random, bytes], bytes] = _pages if kind == "index" else mutate
            file.write_bytes(change(one.random, file.read_bytes()))
        elif kind != "control":
            file.unlink()
        try:
            repair_store(one.path)
        except CowfsError:
            assert kind == "control", (kind, number)
            continue
        again = repair_store(one.path)
        assert again == [], (kind, number, again)
        seen = examine(one.path)
        assert seen.refused is None, (kind, number, seen)
        assert seen.defects == [], (kind, number)
        if kind == "index":
            assert seen.problems == 0
        for name, tree in seen.trees.items():
            if kind in ("index",):
                assert tree == sample.trees[name][0], (number, name)
            elif ":" not in tree:
                assert tree in sample.trees[name], (kind, number, name)
        engine = opened(one.path)
        engine.create("made-since")
        assert engine.workspace("made-since")
        kinds = {each.kind for each in engine.fsck(deep=True)}
        assert kinds <= {"block", "root", "layer"}, (kind, number, kinds)
        engine.close()


def test_nothing_is_done_to_a_good_store(sample: Sample, tmp_path: Path) -> None:
    shutil.copytree(sample.path, tmp_path / "store")
    assert repair_store(tmp_path / "store") == []
    assert not (tmp_path / "store" / "quarantine").exists()
    seen = examine(tmp_path / "store")
    assert (seen.refused, seen.problems, seen.defects) == (None, 0, [])
    assert seen.trees == {name: trees[0] for name, trees in sample.trees.items()}


def test_one_that_is_open_is_busy(sample: Sample, tmp_path: Path) -> None:
    shutil.copytree(sample.path, tmp_path / "store")
    engine = opened(tmp_path / "store")
    with pytest.raises(Busy):
        repair_store(tmp_path / "store")
    engine.close()


def test_files_that_are_lost_are_those_that_fsck_names(tmp_path: Path) -> None:
    """Each data block in turn: EIO for exactly the files that use it, the same ones named, before and after repair."""
    store = TestStore(tmp_path / "store")
    store.engine.create("ws")
    view = store.workspace("ws").view
    contents = {b"f%d" % number: b"%d " % (number // 2) * 3000 for number in range(10)}  # in pairs of one content
    for name, data in contents.items():
        view.write(view.mknod(1, name, stat.S_IFREG | 0o644, 0, NOBODY).ino, 0, data, NOBODY)
    store.engine.checkpoint("ws", "all", label="good")
    store.engine.settle()
    store.engine.fork("ws@good", "fork")
    ids = {}
    for id_, location, _ in store.engine.index.items():
        raw = store.engine.blocks.get(id_)
        if raw in contents.values():
            ids[raw] = location
    store.close()
    raw, location = sorted(ids.items())[1]
    path = segment_path(store.path / "segments", location.segment)
    bad = bytearray(path.read_bytes())
    bad[location.offset + 70] ^= 1
    path.write_bytes(bad)
    hurt = {name.decode() for name, each in contents.items() if each == raw}
    assert len(hurt) == 2

    for repaired in (False, True):
        if repaired:
            done = repair_store(store.path)
            assert [each.where for each in done] == [f"segments/{path.name}"]
            assert (store.path / done[0].quarantine).read_bytes() == bytes(bad)
            assert repair_store(store.path) == []
        store.open()
        problems = [each for each in store.engine.fsck(deep=True) if each.kind == "block"]
        assert [set(each.affected) for each in problems] == [named(hurt, ["ws", "fork", "ws@good"])]
        assert problems[0].affected_count == 6
        assert {each.kind for each in store.engine.fsck(deep=True)} == ({"block"} if repaired else {"block", "segment"})
        assert store.engine.fsck()
        for ref in ("ws", "fork", "ws@good"):
            unreadable = {name.decode() for name, each in contents.items() if not readable(store, ref, name, each)}
            assert unreadable == hurt, ref
        if repaired:  # the same content, stored again, takes its place
            again = store.workspace("ws").view
            again.write(again.mknod(1, b"again", stat.S_IFREG | 0o644, 0, NOBODY).ino, 0, raw, NOBODY)
            store.engine.checkpoint("ws", "again")
            store.engine.settle()
            assert list(store.engine.fsck(deep=True)) == []
        store.close()


def named(files: set[str], refs: list[str]) -> set[str]:
    return {f"{ref}: {file}" for ref in refs for file in files}


def readable(store: TestStore, ref: str, name: bytes, data: bytes) -> bool:
    try:
        assert b"".join(store.engine.show(ref, name)) == data
    except (CowfsError, OSError):
        return False
    return True


def repaired_or_killed(store: Path, number: int) -> bool:
    """Repair in a child that kills itself at the ``number``-th call that changes something; whether it got that far."""

    def die(at: int, name: str, real: Call, args: tuple[object, ...], named: dict[str, object]) -> object:
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    child = os.fork()
    if child == 0:
        code = 3
        try:
            with intercepted(die):
                repair_store(store)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


@pytest.mark.parametrize("harm", ["segments", "journals", "control"])
def test_cut_off_at_every_step_it_goes_on(sample: Sample, tmp_path: Path, harm: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(sample.path, damaged)
    for file in sorted((damaged / harm).rglob("*")):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
    expected: tuple[dict[str, str], set[str]] | None = None
    number = 0
    while True:
        number += 1
        store = tmp_path / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(damaged, store)

        ended = repaired_or_killed(store, number)
        repair_store(store)
        seen = examine(store)
        assert (seen.refused, seen.defects) == (None, []), number
        found = (seen.trees, {each.kind for each in findings(store)})
        expected = expected or found
        assert found == expected, number
        if ended:
            break
    assert number > 3


def findings(path: Path) -> list[Problem]:
    engine = opened(path)
    try:
        return list(engine.fsck(deep=True))
    finally:
        engine.close()
