"""Power is lost after each operation of recorded runs; ``python -m tests.fault.power`` is the long version."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import lmdb
import pytest

from tests.fault.power import FIRST, Run, in_memory, killed_first, mounted
from tests.support.disk import CORNERS, Disk, Image, digest, read_log, write_image
from tests.support.losses import History, Judge
from tests.support.mounting import needs_mounts
from tests.support.recordfs import Recorded

pytestmark = needs_mounts

PROCESSES = 2
ALL_VERBS = (
    "create", *["operate"] * 9, "checkpoint", "operate", "settle", "operate", "fork", "operate", "restore", "operate",
    "settle", "import", "operate", "freeze", "operate", "remove_one", "undo", "compact", "collect",
)  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that can be had."""
    with in_memory("cowfs-test-") as path:
        yield path


def test_a_run_with_every_verb(folder: Path) -> None:
    run = Run(folder, 1)
    try:
        run.begin()
        run.session(len(ALL_VERBS), inline=False, kinds=ALL_VERBS)
        run.session(8, inline=True, kill_at=30)
        run.session(1, inline=True)
    finally:
        run.close()
    verdict = Judge(run.log, History(run.moments), folder, seed=1, randoms=1, usable_every=10).run(PROCESSES)
    assert verdict.findings == []
    assert verdict.different > 300


@pytest.mark.parametrize("kind", [FIRST, "compact"])
def test_what_a_killed_process_has_left_unsynced(folder: Path, kind: str) -> None:
    verdict = killed_first(folder, kind, everywhere=False, processes=PROCESSES)
    assert verdict.findings == []
    assert verdict.different > 50


def test_a_run_through_the_daemon(folder: Path) -> None:
    verdict = mounted(folder, 3, 40, randoms=0.3, processes=PROCESSES, daemons=1)
    assert verdict.findings == []
    assert verdict.different > 100


def values(image: Image, place: Path) -> dict[bytes, bytes]:
    """All that an LMDB database shows."""
    write_image(image, place)
    with lmdb.open(str(place / "index"), map_size=1 << 30, max_dbs=2) as env, env.begin(env.open_db(b"x")) as txn:
        return dict(txn.cursor())


def test_lmdb_keeps_every_commit_by_itself(folder: Path) -> None:
    recorded = Recorded(folder / "disk")
    states, counts = [], []
    content: dict[bytes, bytes] = {}
    try:
        with lmdb.open(str(recorded.path / "index"), map_size=1 << 30, max_dbs=2, readahead=False) as env:
            database = env.open_db(b"x")
            folder_fd = os.open(recorded.path / "index", os.O_RDONLY)
            os.fsync(folder_fd)
            os.close(folder_fd)
            root_fd = os.open(recorded.path, os.O_RDONLY)
            os.fsync(root_fd)
            os.close(root_fd)
            for number in range(30):
                states.append(dict(content))
                counts.append(recorded.operations)
                random = Random(number)
                with env.begin(database, write=True) as txn:
                    for _ in range(20):
                        key, value = b"%03d" % random.randrange(200), random.randbytes(random.randrange(900))
                        content[key] = value
                        txn.put(key, value)
            states.append(dict(content))
            counts.append(recorded.operations)
    finally:
        recorded.close()
    disk = Disk()
    seen: dict[bytes, dict[bytes, bytes]] = {}
    for count, entry in enumerate(read_log(recorded.log), 1):
        disk.apply(entry)
        if count < counts[0]:
            continue
        done = max(at for at, each in enumerate(counts) if each <= count)
        images = [disk.corner(corner) for corner in CORNERS]
        images += [disk.random(Random(f"{count} {number}")) for number in range(3)]
        for image in images:
            name = digest(image)
            if name not in seen:
                seen[name] = values(image, folder / f"{len(seen)}")
            assert seen[name] in states[done : done + 2], f"after operation {count}"
    assert len(seen) > 100
