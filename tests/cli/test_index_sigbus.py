"""The block index is cut under a running daemon: processes die by SIGBUS, the index is rebuilt, programs wait.

The cut is real: pages of the mapped file are no more, so touching them is a SIGBUS.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts
FILES = 900
PAGE = 4096


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number}").write_bytes(b"%d\n" % number + os.urandom(700))
    found = Live(tmp_path / "store")
    found.cowfs("init")
    try:
        found.cowfs("import", str(source), "ws")
        yield found
    finally:
        found.end()
    assert found.mounts() == []


def test_a_program_reads_on(live: Live, tmp_path: Path) -> None:
    path = Path(live.cowfs("path", "ws"))
    (path / "new").write_bytes(b"not settled")
    before = live.json("daemon", "status")
    assert before["index_rebuilt"] is None
    assert (live.store / "index" / "data.mdb").stat().st_size > 20 * PAGE
    os.truncate(live.store / "index" / "data.mdb", 3 * PAGE)

    for each in (tmp_path / "source").iterdir():
        assert (path / each.name).read_bytes() == each.read_bytes(), live.log()
    assert (path / "new").read_bytes() == b"not settled"

    after = live.json("daemon", "status")
    assert "killed by SIGBUS" in live.log()
    assert "was rebuilt" in after["index_rebuilt"]
    assert after["keeper"] == before["keeper"]
    assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
    assert live.json("fsck", "--deep")["clean"]
    live.cowfs("checkpoint", "ws", "-m", "after")


def test_a_daemon_starts_on_what_is_left(live: Live, tmp_path: Path) -> None:
    live.cowfs("daemon", "stop")
    os.truncate(live.store / "index" / "data.mdb", 3 * PAGE)
    path = Path(live.cowfs("path", "ws"))
    for each in (tmp_path / "source").iterdir():
        assert (path / each.name).read_bytes() == each.read_bytes(), live.log()
    assert "was rebuilt" in live.json("daemon", "status")["index_rebuilt"]
