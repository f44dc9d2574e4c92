"""A workspace whose journal was damaged: read-only as it was before that, named by every look, and forked to go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.formats import journal as fmt
from cowfs.layers.journal import JournalFile, read_records
from tests.cli.live import Live
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    found = Live(tmp_path / "store")
    found.cowfs("init")
    try:
        yield found
    finally:
        found.end()
    assert found.mounts() == []


def damage(journals: Path, text: bytes) -> None:
    """Flip a bit in the journal record that holds ``text``."""
    (path,) = journals.glob("*/*.journal")
    data = bytearray(path.read_bytes())
    file = JournalFile.open(journals, path.parent.name, int(path.name[:10]))
    for at, end, _ in read_records(file, fmt.HEADER_BYTES, len(data)):
        if text in data[at:end]:
            data[at + 20] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("no such record")


def test_it_is_read_only_and_its_fork_goes_on(live: Live) -> None:
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws"))
    (path / "kept").write_text("before")
    (path / "hit").write_text("the damaged one")
    (path / "behind").write_text("lost")
    live.cowfs("daemon", "stop", "--force")
    damage(live.store / "journals", b"the damaged one")

    for _ in range(2):  # the second time after a fork and a restart
        assert live.cowfs("path", "ws") == str(path)
        (listed,) = (each for each in live.json("list") if each["name"] == "ws")
        assert "journal, byte" in listed["damage"]
        assert "ws is read-only:" in live.cowfs("list")
        assert sorted(each.name for each in path.iterdir()) == ["hit", "kept"]
        assert (path / "kept").read_text() == "before"
        for change in (lambda: (path / "new").touch(), lambda: (path / "kept").write_text("x")):
            with pytest.raises(OSError, match="Read-only"):
                change()
        checked = live.run("fsck")
        assert checked.code == 6
        assert "ws" in checked.out + checked.err
        assert listed["damage"] in checked.out + checked.err

        live.cowfs("fork", "ws", "next")
        forked = Path(live.cowfs("path", "next"))
        (forked / "kept").write_text("and on")
        (forked / "new").touch()
        live.cowfs("checkpoint", "next", "--label", "on")
        assert live.json("checkpoint", "ws")["changed"] is False, "the fork has made a snapshot of it"
        refused = live.run("restore", "ws", live.json("log", "ws")[0]["id"])
        assert refused.code == 6
        assert "Fork it" in refused.err
        live.cowfs("daemon", "stop", "--force")
        assert live.cowfs("show", "next@on:kept") == "and on"
        live.cowfs("rm", "next", "--force")

    live.cowfs("fork", "ws", "next")
    live.cowfs("rm", "ws", "--force")
    live.cowfs("rename", "next", "ws")
    assert live.run("fsck").code == 0
    assert live.cowfs("show", "ws:kept") == "before"
