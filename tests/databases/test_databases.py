"""A database under load, checkpointed and forked; ``python -m tests.databases.postgres`` and ``.sqlite`` are longer."""

from pathlib import Path

import pytest

from tests.databases import postgres, server, sqlite
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts


@pytest.mark.skipif(bool(server.why_not()), reason=server.why_not())
def test_a_server_recovers_on_forks_of_a_checkpoint_under_load(tmp_path: Path) -> None:
    report = postgres.run(tmp_path / "store", forks=2, checkpoints=1, seconds=3.0, scale=1)
    assert report.forks_recovered == report.forks_passed == 2
    assert report.transactions > report.restored > 0


def test_sqlite_forks_hold_a_committed_prefix(tmp_path: Path) -> None:
    report = sqlite.run(tmp_path, writers=2, forks=4, checkpoints=2, seconds=3.0)
    assert report.forks_passed == 4
    assert report.transactions > report.restored > 0
