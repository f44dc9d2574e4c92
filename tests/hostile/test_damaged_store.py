"""A store one of whose files was changed, cut or removed: the documented error, one line, and nothing changed.

What can still be read is right. ``python -m tests.hostile.damage 1000 DIRECTORY`` is the long version.
"""

import shutil
from pathlib import Path

import pytest

from cowfs.engine import Engine
from cowfs.errors import Busy, Corrupt, NotFound
from cowfs.formats.superblock import Superblock, decode_superblock, encode_superblock
from cowfs.geometry import Geometry
from tests.hostile.damage import KINDS, damage, forge
from tests.hostile.store import Sample, examine, fingerprint, glance, make_sample
from tests.support.store import Ids, Ticks

ROUNDS = {"superblock": 12, "control": 15, "journals": 15, "segments": 12, "index": 8}
FORGED = 30


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample") / "store")


def test_the_sample_is_good(sample: Sample) -> None:
    seen = examine(sample.path)
    assert (seen.refused, seen.problems, seen.defects) == (None, 0, [])
    assert seen.trees == {name: trees[0] for name, trees in sample.trees.items()}
    assert examine(sample.path, glance).trees == sample.glances


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file(sample: Sample, tmp_path: Path, kind: str) -> None:
    found = [each for number in range(ROUNDS[kind]) for each in damage(sample, tmp_path, kind, f"ci {number}")]
    assert found == []


def test_a_forged_journal_record(sample: Sample, tmp_path: Path) -> None:
    assert [each for number in range(FORGED) for each in forge(sample, tmp_path, f"ci {number}")] == []


@pytest.mark.parametrize("lost", ["control/log", "segments", "journals", "superblock"])
def test_a_missing_part(sample: Sample, tmp_path: Path, lost: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(sample.path, store)
    part = store / lost
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    before = fingerprint(store)
    with pytest.raises(NotFound if lost == "superblock" else Corrupt):
        Engine.open(store, Ticks(), Ids())
    assert fingerprint(store) == before


def test_a_store_of_a_newer_version(sample: Sample, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(sample.path, store)
    known = decode_superblock((store / "superblock").read_bytes())
    newer = Superblock(known.store_id, known.geometry, known.created_at, version=9, reader_version=9)
    (store / "superblock").write_bytes(encode_superblock(newer))
    before = fingerprint(store)
    with pytest.raises(Corrupt, match="needs format version 9") as refused:
        Engine.open(store, Ticks(), Ids())
    assert "upgrade" in refused.value.hint
    assert fingerprint(store) == before


def test_a_second_owner(tmp_path: Path) -> None:
    Engine.create_store(tmp_path / "store", Ticks(), bytes(16), Geometry())
    first = Engine.open(tmp_path / "store", Ticks(), Ids())
    before = fingerprint(tmp_path / "store")
    with pytest.raises(Busy, match="in use by process"):
        Engine.open(tmp_path / "store", Ticks(), Ids())
    assert fingerprint(tmp_path / "store") == before
    first.create("still-works")
    first.close()


def test_journals_that_a_cut_control_log_does_not_know_are_kept(sample: Sample, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(sample.path, store)
    log = store / "control" / "log"
    log.write_bytes(log.read_bytes()[:300])
    before = fingerprint(store, ["control/log"])
    Engine.open(store, Ticks(), Ids()).close()
    after = fingerprint(store, ["control/log"])
    assert {
        name: after.get(name, after.get(f"quarantine/{name}")) for name in before if name.startswith("journals")
    } == {name: found for name, found in before.items() if name.startswith("journals")}


def test_a_store_named_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Engine.create_store(Path("here"), Ticks(), bytes(16))
    engine = Engine.open(Path("here"), Ticks(), Ids())
    monkeypatch.chdir("/")
    engine.create("ws")
    engine.close()
    assert (tmp_path / "here" / "index" / "data.mdb").exists()
