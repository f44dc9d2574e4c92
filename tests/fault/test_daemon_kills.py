"""Supervisor and worker are killed once in each verb; ``python -m tests.fault.daemon_kills`` does it at every call."""

from pathlib import Path

import pytest

from tests.fault import daemon_kills


@pytest.mark.fuse
def test_each_verb_is_carried_out_once(tmp_path: Path) -> None:
    kills = daemon_kills.run(tmp_path, step=1000, first=3)
    assert sum(kills["supervise"].values()) >= 5
    assert sum(kills["worker"].values()) >= 3
