"""What an ordinary user is told who may not open /dev/fuse, and what works all the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.support.mounting import ROOT

DEVICE = "/dev/fuse"

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(
        ROOT or os.access(DEVICE, os.R_OK | os.W_OK), reason=f"only as an ordinary user who may not open {DEVICE}"
    ),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("closed") / "store") as made:
        yield made


def test_it_says_why_nothing_is_mounted_and_what_to_do(live: Live) -> None:
    live.cowfs("create", "ws")
    for words in (("path", "ws"), ("mount", "ws")):
        refused = live.run(*words)
        assert refused.code == 2, refused
        assert "cannot mount" in refused.err
        assert "load the fuse module, and give this user access to /dev/fuse" in refused.err
    (found,) = (each for each in json.loads(live.run("doctor", "--json").out) if each["check"] == DEVICE)
    there = os.path.exists(DEVICE)
    assert (found["ok"], found["detail"]) == (False, "this user may not open it" if there else "missing")
    assert ("chmod 666 /dev/fuse" if there else "modprobe fuse") in found["hint"]


def test_what_needs_no_mount_works(live: Live, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("kept")
    live.cowfs("import", str(source), "copy")
    assert live.cowfs("show", "copy:f") == "kept"
    snapshot = live.cowfs("checkpoint", "copy")
    live.cowfs("fork", snapshot, "other")
    live.cowfs("export", "other", f"dir:{tmp_path}/out")
    assert (tmp_path / "out" / "f").read_text() == "kept"
