"""A worker that dies at any point of a checkpoint or restore while a program has files open and mapped for writing: the
program waits, and sees no error, and then what it should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Busy, CowfsError
from cowfs_daemon import compose
from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually, other_workers
from tests.workers.test_exactly_once import look

pytestmark = needs_mounts

BEFORE = """
os.mkdir('dir'); os.mkdir('dir/deep'); os.mkdir('gone'); open('dir/deep/file', 'w').write('in the snapshot')
open('a', 'w').write('a' * 9000); open('b', 'w').write('b'); open('c', 'w').write('c'); os.link('c', 'c2')
held = os.open('a', os.O_RDWR | os.O_APPEND); reader = os.open('b', os.O_RDONLY)
mapped = mmap.mmap(held, 4096)
""".strip().replace("\n", "; ")

AFTER = """
open('a', 'w').write('changed' * 5000); os.rename('b', 'dir/moved'); os.unlink('c'); open('new', 'w').write('new')
os.rename('dir/deep', 'elsewhere'); os.rmdir('gone'); os.chmod('c2', 0o600); os.setxattr('a', 'user.x', b'1')
open('elsewhere/file', 'w').write('changed')
""".strip().replace("\n", "; ")

POINTS_MAX = 80


@pytest.fixture
def doomed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Owned, Path]]:
    monkeypatch.setattr(compose, "LOSSES_MAX", 10**6)
    monkeypatch.setattr(compose, "BEAT_SECONDS", 0.3)
    with other_workers(tmp_path, monkeypatch, "doomed", "COWFS_TEST_DOOM", 1) as given:
        yield given


def insist(owned: Owned, name: str, snapshot: str, tries: list[CowfsError]) -> None:
    """Restore, again and again until it is done, as a client does."""

    def done() -> bool:
        try:
            owned.engine.restore(name, snapshot, discard=True)
        except (Busy, CowfsError) as error:
            tries.append(error)
            return False
        return True

    eventually(done, "a restore")


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_at_any_point_of_a_restore(doomed: tuple[Owned, Path], deaths: int) -> None:
    owned, doom = doomed
    point, died = 0, deaths
    step = 2 if deaths == 1 else 4
    while died:
        point += step
        assert point < POINTS_MAX
        died = restore_with_deaths(owned, doom, point, deaths)
    assert point > 10, "the restore passed hardly any point"


def restore_with_deaths(owned: Owned, doom: Path, point: int, deaths: int) -> int:
    """Restore with a worker that dies at ``point``, and a successor that does so, too; how many have died."""
    name = f"ws-{point}"
    path = owned.make(name)
    with Agent(timeout_s=60) as agent:
        agent(f"os.chdir({os.fspath(path)!r}); os.umask(0o022)")
        assert agent(BEFORE) is None
        snapshot = owned.engine.checkpoint(name, "good").snapshot.id
        wanted = look(path)
        assert agent(AFTER) is None
        look(path)  # now the kernel has all of it cached
        died = 0
        tries: list[Any] = []
        while died < deaths:
            doom.write_text(str(point if not died else 1 + point // 2))
            before = len(tries)
            insist(owned, name, snapshot, tries)
            if doom.exists():
                doom.unlink()
                break
            died += 1
            if before == len(tries):  # it died when the restore was done
                break
        doom.unlink(missing_ok=True)
        eventually(lambda: owned.engine.host.is_open(owned.engine.workspace(name).id), "a worker that serves it")
        owned.path(name)
        assert look(path) == wanted, point
        assert agent("(os.fstat(held).st_size, os.pread(held, 2, 8998), os.pread(reader, 5, 0))") == (9000, b"aa", b"b")
        assert agent("(os.write(held, b'!'), os.fstat(held).st_size, mapped[0])") == (1, 9001, 97)
        assert (path / "a").read_bytes() == b"a" * 9000 + b"!"
        (path / "gone" / "new").write_text("in a directory that is back")
        agent("mapped.close()")
    owned.mounts.umount(name, force=True)
    owned.engine.remove(name, force=True)
    return died


@pytest.mark.interpreted
def test_a_worker_that_dies_at_any_point_of_a_checkpoint(doomed: tuple[Owned, Path]) -> None:
    """It waits for pages of mappings to be written, by requests that nobody but its successor can answer."""
    owned, doom = doomed
    path = owned.make("ws")
    with Agent(timeout_s=60) as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        agent("held = os.open('mapped', os.O_RDWR | os.O_CREAT); os.ftruncate(held, 1 << 16)")
        agent("mapped = mmap.mmap(held, 1 << 16)")
        point, died = 0, True
        while died:
            point += 1
            assert point < POINTS_MAX
            agent(f"mapped[:] = bytes([{point}]) * len(mapped); os.pwrite(held, b'{point:09d}', 4096)")
            doom.write_text(str(point))
            eventually(lambda: checkpointed(owned, "ws", point), "a checkpoint")  # noqa: B023
            died = not doom.exists()
            doom.unlink(missing_ok=True)
            wanted = bytearray(bytes([point]) * (1 << 16))
            wanted[4096:4105] = b"%09d" % point
            assert b"".join(owned.engine.show("ws@latest", b"mapped")) == wanted, point
            assert agent("mapped[:10]") == bytes([point]) * 10
    assert point > 5, "the checkpoint passed hardly any point"


def checkpointed(owned: Owned, name: str, point: int) -> bool:
    try:
        owned.engine.checkpoint(name, str(point))
    except Busy:
        return False
    return True
