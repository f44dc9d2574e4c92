"""``cowfs run`` by an ordinary user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.support.mounting import ROOT, needs_mounts
from tests.support.rootfs import make_rootfs

pytestmark = [*needs_mounts, pytest.mark.skipif(ROOT, reason="only as an ordinary user")]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    make_rootfs(tmp_path / "rootfs")
    with living(tmp_path / "store") as made:
        made.cowfs("import", str(tmp_path / "rootfs"), "ws")
        yield made


def test_the_user_is_root_inside(live: Live) -> None:
    said = live.cowfs("run", "ws", "--", "sh", "-c", "id -u; echo kept > /f; ls -ln /f; ls /; hostname")
    assert said.split()[0] == "0"
    assert "1 0 0 5" in said.replace("    ", " ").replace("  ", " ")
    path = Path(live.cowfs("path", "ws")) / "f"
    assert (path.stat().st_uid, path.read_text()) == (os.geteuid(), "kept\n")
    assert live.run("run", "ws", "--", "sh", "-c", "exit 7").code == 7


def test_it_cannot_reach_the_host(live: Live, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert live.run("run", "ws", "--", "cat", str(tmp_path / "secret")).code != 0
    assert live.run("run", "ws", "--", "sh", "-c", "echo x > /proc/sys/kernel/hostname").code != 0


def test_checkpoints_and_restores_around_it(live: Live) -> None:
    live.cowfs("run", "ws", "--checkpoint-each", "--", "sh", "-c", "echo one > /f")
    live.run("run", "ws", "--restore-on-failure", "--", "sh", "-c", "echo two > /f; exit 1")
    assert live.cowfs("show", "ws:f") == "one"
