"""``bench.placement`` serves in the ways that it names."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bench import common, placement
from tests.support.mounting import OBSTACLE

SECONDS = 20.0

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)]


def readers() -> list[set[int]]:
    """Where each reader of this process may run."""
    threads = [thread.native_id for thread in threading.enumerate() if thread.name == "cowfs-reader"]
    return [os.sched_getaffinity(thread) for thread in threads if thread is not None]


def test_the_reader_follows_its_caller(tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    if len(everywhere) < 2:
        pytest.skip("one CPU")
    with placement.served(tmp_path, 1) as (_, roots):
        for cpu in sorted(everywhere):
            with common.placed((cpu,)):
                common.run("touch", roots["follow"] / f"file-{cpu}")
            until = time.monotonic() + SECONDS
            while {cpu} not in readers():
                assert time.monotonic() < until, readers()
                threading.Event().wait(0.02)
        common.run("touch", roots["spin"] / "file", roots["no_spin"] / "file")
        assert everywhere in readers()
    assert os.sched_getaffinity(0) == everywhere


def test_every_way_is_measured_under_every_load(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x" * 5000)
    common.run("tar", "-C", tmp_path / "source", "-cf", tmp_path / "files.tar", "file")
    with placement.served(tmp_path, 4) as (engine, roots):
        found = placement.measure(engine, roots, tmp_path / "files.tar", 1)
        assert not any(list(root.iterdir()) for root in roots.values())
    assert found.keys() == set(placement.WAYS)
    assert all(one.keys() == placement.LOADS.keys() for one in found.values())
