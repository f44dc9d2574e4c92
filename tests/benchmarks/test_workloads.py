"""The workloads of ``bench.workloads`` run their programs, and their results merge and are judged as said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import aims, common, render, workloads
from bench.common import Series
from bench.systems import System
from bench.workload import SMALL, Sizes, Workload
from tests.support.mounting import needs_root

STEPS = {
    "git": {"git_clone", "git_add", "git_commit", "git_status_first", "git_status_warm"},
    "build": {"make", "make_nothing"},
    "storm": {"storm_create", "storm_stat", "storm_stat_cold", "storm_unlink"},
    "tree": {"untar", "find", "grep_cold", "grep_warm", "rm"},
    "sqlite": {"sqlite_delete", "sqlite_wal"},
    "fio": {f"fio_{step}_{jobs}" for step in ("write", "read_cold", "read_warm", "random_read_cold", "random_write")
            for jobs in (1, 4)},
}  # fmt: skip
"""Without a network, a server or long runs."""


def series(**milliseconds: float) -> Series:
    """One turn."""
    made = Series()
    made.seconds = {step: [taken / 1000] for step, taken in milliseconds.items()}
    return made


def fresh() -> dict[str, Any]:
    """Results with nothing in them."""
    return workloads.earlier(None, SMALL)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_timed_and_what_must_be_cold_is_made_cold(name: str, tmp_path: Path) -> None:
    workload = workloads.WORKLOADS[name]
    if why := workload.lacks():
        pytest.skip(why)
    inputs, root = tmp_path / "inputs", tmp_path / "root"
    inputs.mkdir()
    root.mkdir()
    workload.prepare(inputs, SMALL)
    remounts: list[None] = []
    taken = workload.run(System(root, lambda: remounts.append(None)), inputs, SMALL)
    assert set(taken) == STEPS[name]
    assert all(seconds > 0 for seconds in taken.values())
    assert bool(remounts) == any("cold" in step or "first" in step for step in taken)


@needs_root("it makes a bind mount")
def test_a_step_that_fails_leaves_out_its_system_and_says_why(tmp_path: Path) -> None:
    def broken(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
        raise subprocess.CalledProcessError(3, "tar")

    taken, failed = workloads.measure(Workload(broken), tmp_path, tmp_path, ["native"], "free", 2, SMALL)
    assert taken == {}
    assert "exit status 3" in failed["native"]
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_a_run_merge_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "workloads.json"
    results = fresh()
    workloads.absorb(results, "tree", "free", {"cowfs": series(untar=30, rm=8)}, {"bindfs": "it broke"})
    common.keep("workloads", path, results)
    again = workloads.earlier(path, SMALL)
    assert again["failed"] == {"tree, free, bindfs": "it broke"}
    taken = {"cowfs": series(untar=40), "native": series(untar=20, rm=4), "bindfs": series(untar=50)}
    workloads.absorb(again, "tree", "free", taken, {})
    common.keep("workloads", path, again)
    merged = json.loads(path.read_text())["results"]
    assert merged["failed"] == {}
    assert list(merged["placements"]["free"]["systems"]) == ["native", "bindfs", "cowfs"]
    assert merged["placements"]["free"]["ratio_to_native"] == {"bindfs": {"untar": 2.5}, "cowfs": {"untar": 2, "rm": 2}}
    with pytest.raises(ValueError, match="other sizes"):
        workloads.earlier(path, Sizes())


def test_aims_are_judged_by_their_placement() -> None:
    results = fresh()
    slow = {"native": series(untar=10), "bindfs": series(untar=50), "cowfs": series(untar=16)}
    workloads.absorb(results, "tree", "free", slow, {})
    workloads.absorb(results, "tree", "pinned", slow | {"cowfs": series(untar=15)}, {})
    verdicts = {one.text: one.verdict for one in aims.judged({"workloads": results})}
    assert verdicts["untar of 36,000 files, over the disk; one CPU"] == "met"
    assert verdicts["untar of 36,000 files, over the disk; unpinned"] == "**missed**"
    assert verdicts["rm -rf of 36,000 files, over the disk; unpinned"] == "not measured"


def test_the_aim_against_bindfs_takes_the_worst_step() -> None:
    results = fresh()
    steps = dict.fromkeys(aims.METADATA, 10.0)
    taken = {"bindfs": series(**steps), "cowfs": series(**steps | {"storm_stat_cold": 12.5})}
    workloads.absorb(results, "storm", "free", taken, {})
    (worst,) = (one for one in aims.judged({"workloads": results}) if "bindfs; unpinned" in one.text)
    assert (worst.measured, worst.verdict) == ("1.25 times", "**missed**")


def test_what_was_left_out_stands_above_the_table() -> None:
    results = fresh()
    results["skipped"]["dbench"] = "not installed: dbench"
    workloads.absorb(results, "tree", "free", {"native": series(untar=10), "cowfs": series(untar=15)}, {})
    section = render.workloads_section(results)
    assert "Left out: dbench: not installed: dbench." in section
    assert "| untar | 10 (10) | 15 (15) | 1.5 |" in section


def test_every_step_of_an_aim_exists() -> None:
    known = set().union(*STEPS.values()) | {"pip_install", "import_cold", "import_warm"}
    assert {step for steps, _ in aims.WORKLOADS.values() for step in steps} | set(aims.METADATA) <= known
