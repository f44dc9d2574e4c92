"""A minute of torture; ``make torture`` is the long version."""

import os
from pathlib import Path

import pytest

from tests.torture.campaign import run

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting directly needs root"),
]


def test_nothing_is_lost_and_no_program_sees_an_error(tmp_path: Path) -> None:
    report = run(tmp_path, 20, seconds=8, rounds=2, kills=8, per_second=1.0, everything=2)
    assert (report.losses, report.errors) == ([], [])
    assert report.steps > 0
    assert report.kills["keeper"] >= 1
