"""A store for disk workspaces; ends clean, with no loop device of its left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.support.mounting import OBSTACLE


def loops_of(store: Path) -> list[str]:
    """The loop devices whose file is on a mount of this store."""
    store_id = (store / "superblock").read_bytes()[16:32].hex()
    found = Path("/sys/block").glob("loop*/loop/backing_file")
    return [path.parts[3] for path in found if store_id in path.read_text()]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    if OBSTACLE or os.geteuid() != 0:
        pytest.skip(OBSTACLE or "attaching disks needs root")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    with living(tmp_path / "store") as made:
        yield made
    assert not loops_of(tmp_path / "store")


@pytest.fixture
def disk(live: Live) -> Live:
    """The same with an empty disk workspace ``vm`` of 64 MiB."""
    live.cowfs("create", "vm", "--disk", "64M")
    return live


def checked(image: str) -> str:
    """What e2fsck says of an image that needs no repair, not even a replay of its journal."""
    done = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recovery" not in done.stdout + done.stderr
    return done.stdout
