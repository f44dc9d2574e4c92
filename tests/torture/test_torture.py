"""A minute of torture; ``make torture`` is the long version."""

from pathlib import Path

from tests.support.mounting import needs_mounts
from tests.torture import real
from tests.torture.campaign import run

pytestmark = needs_mounts


def test_nothing_is_lost_and_no_program_sees_an_error(tmp_path: Path) -> None:
    report = run(tmp_path, 20, seconds=8, rounds=2, kills=8, per_second=1.0, everything=2)
    assert (report.losses, report.errors) == ([], [])
    assert report.steps > 0
    assert report.kills["keeper"] >= 1


def test_real_programs_see_a_pause_and_no_error(tmp_path: Path) -> None:
    report = real.run(tmp_path, seconds=6, copy_bytes=64 << 20, per_second=1.0, seed=3)
    assert report["errors"] == {}
    assert report["kills"].get("worker", 0) >= 1
    assert sorted(report["rounds"]) == sorted(real.PROGRAMS)
