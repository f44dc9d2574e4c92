"""A worker that dies at any record of a restore, or before any reply, those to itself included: whatever the kernel
kept of the state before is gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import Busy
from cowfs_daemon import compose, remote
from tests.support.mounting import needs_mounts
from tests.support.treehash import Facts, hash_directory
from tests.workers.conftest import Owned, eventually

pytestmark = needs_mounts

POINTS_MAX = 200
State = dict[bytes, Facts]


def look(path: Path) -> State:
    """All that the kernel shows, from its caches where it has them."""
    return hash_directory(path, identity=True).facts


def stale(path: Path, names: set[bytes], wanted: State) -> list[bytes]:
    """Names whose looked up attributes are not those wanted; nothing is listed, since that refreshes the caches."""
    wrong = []
    for name in sorted(names):
        try:
            seen = os.lstat(os.path.join(os.fsencode(path), name))
        except FileNotFoundError:
            found = None
        else:
            found = (seen.st_mode, (seen.st_ino, seen.st_nlink, seen.st_size, seen.st_ctime_ns))
        facts = wanted.get(name)
        if found != (facts and (facts.mode, (facts.identity or ())[:4])):
            wrong.append(name)
    return wrong


def fill(path: Path) -> None:
    """The state to go back to."""
    for name in ("changed", "gone", "replaced", "moved"):
        (path / name).write_bytes(name.encode() * 1000)
    (path / "dir" / "below").mkdir(parents=True)
    (path / "dir" / "below" / "deep").write_text("deep")
    (path / "dir" / "was-empty").mkdir()


def wreck(path: Path) -> None:
    """Changes of every kind, all of them in the kernel's caches afterwards."""
    (path / "changed").write_bytes(b"other" * 3000)
    (path / "gone").unlink()
    (path / "moved").rename(path / "dir" / "elsewhere")
    (path / "new").write_text("new")
    (path / "new").rename(path / "replaced")
    (path / "dir" / "below").rename(path / "below")
    (path / "dir" / "was-empty").rmdir()
    (path / "made").mkdir()
    (path / "made" / "file").write_text("made")
    for name in ("gone", "moved", "dir/below", "dir/was-empty", "never"):
        assert not (path / name).exists()


class Dying:
    """A workspace whose worker dies at the points that are written into ``doom``."""

    def __init__(self, owned: Owned, doom: Path) -> None:
        self.owned = owned
        self.doom = doom
        self.only = " records"

    def restore(self, point: int, again: int, discard: bool) -> bool:
        """Restore with a worker that dies at ``point``, and, if not 0, the next one at ``again``; whether one did."""
        engine, name = self.owned.engine, f"ws-{point}-{again}"
        path = self.owned.make(name)
        fill(path)
        target = engine.checkpoint(name, "to go back to").snapshot.id
        wanted = look(path)
        wreck(path)
        wrecked = look(path)
        with open(path / "changed", "r+b") as held:
            self.doom.write_text(f"{point}{self.only}")
            try:
                engine.restore(name, target, discard=discard)
            except Busy:
                if again and not self.doom.exists():
                    self.doom.write_text(f"{again}{self.only}")
            died = not self.doom.exists()
            self.doom.unlink(missing_ok=True)
            eventually(lambda: self._done(name, target, discard), "the restore, asked for again")
            assert stale(path, wanted.keys() | wrecked.keys(), wanted) == [], f"died at {point}, {again}"
            assert look(path) == wanted
            assert held.read() == b"changed" * 1000
        self.owned.mounts.umount(name, force=True)
        engine.remove(name, force=True)
        return died

    def _done(self, name: str, target: str, discard: bool) -> bool:
        try:
            self.owned.engine.restore(name, target, discard=discard)
        except Busy:
            return False
        return True


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dying]:
    doom = tmp_path / "doom"
    monkeypatch.setenv("COWFS_TEST_DOOM", str(doom))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setattr(remote.WorkerProcess, "MODULE", "tests.workers.doomed")
    monkeypatch.setattr(compose, "LOSSES_MAX", 10**6)
    monkeypatch.setattr(compose, "PAUSE_MAX_SECONDS", 0.05)
    monkeypatch.setattr(compose, "BEAT_SECONDS", 0.3)
    owned = Owned(tmp_path, 1)
    try:
        yield Dying(owned, doom)
    finally:
        doom.unlink(missing_ok=True)
        owned.close()


@pytest.mark.interpreted
@pytest.mark.parametrize("discard", [False, True], ids=["kept", "discarded"])
def test_a_worker_that_dies_at_any_record_of_a_restore(dying: Dying, discard: bool) -> None:
    point = 1
    while dying.restore(point, 0, discard):
        point += 1
        assert point < POINTS_MAX
    assert point > 5, "hardly a point was passed"


@pytest.mark.parametrize("discard", [False, True], ids=["kept", "discarded"])
def test_a_worker_that_dies_before_any_reply_of_a_restore(dying: Dying, discard: bool) -> None:
    """Also while it waits for its own mount: a thread that does so cannot end before a successor serves it."""
    dying.only = ""
    point = 1
    while dying.restore(point, 0, discard):
        point += 1
        assert point < POINTS_MAX
    assert point > 8, "hardly a point was passed"


@pytest.mark.parametrize("again", range(1, 4))
def test_its_successor_dies_too(dying: Dying, again: int) -> None:
    for point in range(2, 7):
        dying.restore(point, again, discard=bool(again % 2))
