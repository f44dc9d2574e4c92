"""``bench.scale`` has storms and the program that waits served by processes of their own, and says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import aims, common, daemons, scale
from tests.support.mounting import OBSTACLE

STORMS = ("storm_in_another_workspace", "storm_in_its_fork")


@pytest.mark.fuse
@pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU, so one worker")
def test_a_storm_is_served_by_another_process_in_the_fork_too(tmp_path: Path) -> None:
    daemons.make_store(tmp_path / "store", [])
    with daemons.serving(tmp_path / "store") as client:
        found = scale.neighbours(client, 2, 0.1)
    assert found.keys() == {"alone", "cpu_busy", *STORMS}
    for name in STORMS:
        assert [len(set(pids)) for pids in found[name]["workers"]] == [2, 2], name
    common.run(sys.executable, "-P", "-m", "cowfs_cli", "fsck", "--store", tmp_path / "store")


def results(*pids: list[int]) -> dict[str, Any]:
    """What the program waited: 1 ms alone, 3 in a storm."""
    storm = {"median_ms": 3.0, "workers": list(pids)}
    return {"scale": {"neighbours": {"alone": {"median_ms": 1.0}, **dict.fromkeys(STORMS, storm)}}}


@pytest.mark.parametrize(("pids", "verdict"), [([1, 2], "**missed**"), ([1, 1], "not measured")])
def test_what_one_process_served_decides_nothing(pids: list[int], verdict: str) -> None:
    judged = [one.verdict for one in aims.judged(results([1, 2], pids)) if one.scenario == "scale"]
    assert judged == [verdict, verdict]
