"""Commands on stores that cannot be opened: no daemon stays behind, one line, the right exit code, nothing changed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowfs.engine import Engine
from cowfs.formats.superblock import Superblock, decode_superblock, encode_superblock
from tests.cli.live import Live
from tests.hostile.store import Sample, fingerprint, make_sample
from tests.support.store import Ids, Ticks

BUSY, CORRUPT, NOT_FOUND = 5, 6, 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample") / "store")


@pytest.fixture
def live(sample: Sample, tmp_path: Path) -> Iterator[Live]:
    """A copy of the sample, without a daemon."""
    shutil.copytree(sample.path, tmp_path / "store")
    live = Live(tmp_path / "store")
    yield live
    if (live.store / "superblock").exists():
        live.end()


def newer(store: Path) -> None:
    known = decode_superblock((store / "superblock").read_bytes())
    block = Superblock(known.store_id, known.geometry, known.created_at, version=9, reader_version=9)
    (store / "superblock").write_bytes(encode_superblock(block))


def flip(name: str, at: int) -> Callable[[Path], None]:
    def change(store: Path) -> None:
        data = bytearray((store / name).read_bytes())
        data[at] ^= 4
        (store / name).write_bytes(data)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).unlink()


REFUSED: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "newer version": (newer, CORRUPT, "needs format version 9"),
    "superblock": (flip("superblock", 20), CORRUPT, "superblock"),
    "no superblock": (remove("superblock"), NOT_FOUND, "store at"),
    "control log": (flip("control/log", 300), CORRUPT, "control log"),
    "no control log": (remove("control/log"), CORRUPT, "control/log"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_store_is_refused(live: Live, name: str) -> None:
    change, code, said = REFUSED[name]
    change(live.store)
    before = fingerprint(live.store)
    for words in (("list",), ("fsck",), ("daemon", "run")):
        ended = live.run(*words)
        assert (ended.code, ended.out) == (code, ""), (words, ended, live.log())
        assert said in ended.err
        assert ended.err.startswith("cowfs: ")
        assert ended.err.count("\n") == 1
    error = json.loads(live.run("list", "--json").err)["error"]
    assert said in error["message"]
    assert live.run("daemon", "status").code == NOT_FOUND
    assert fingerprint(live.store) == before


def test_one_damaged_workspace_leaves_the_others(live: Live, sample: Sample) -> None:
    journals = sorted((live.store / "journals").iterdir())
    path = next(journals[1].iterdir())
    path.write_bytes(path.read_bytes()[:5000])
    listed = {each["name"] for each in live.json("list")}
    assert listed == set(sample.trees)
    for words in (("checkpoint", "frozen"), ("diff", "frozen@first", "frozen"), ("fork", "frozen", "new")):
        ended = live.run(*words)
        assert (ended.code, ended.err.count("\n")) == (CORRUPT, 1), (words, ended)
        assert "journal" in ended.err
    assert live.cowfs("show", "frozen@first:file-moved").startswith("frozen 0")
    for name in ("settled", "live", "other"):
        live.cowfs("checkpoint", name)
    assert path.stat().st_size == 5000


def test_a_second_owner(live: Live) -> None:
    owner = Engine.open(live.store, Ticks(), Ids())
    try:
        ended = live.run("fsck")
        assert (ended.code, ended.err.count("\n")) == (BUSY, 1), ended
        assert "in use by process" in ended.err
    finally:
        owner.close()
    live.cowfs("list")
    second = live.run("daemon", "run")
    assert (second.code, second.err.count("\n")) == (BUSY, 1), second
