"""A store whose workspace ``ws`` is a small root filesystem; ends with a clean store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.support.mounting import OBSTACLE
from tests.support.rootfs import make_rootfs

# gRPC's handlers in a child that is forked for another program have ended that child before it began.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    yield from with_root(tmp_path)


def with_root(folder: Path) -> Iterator[Live]:
    """A store below ``folder`` whose workspace ``ws`` is a root filesystem."""
    if OBSTACLE:
        pytest.skip(OBSTACLE)
    assert shutil.which("bwrap"), "needs bubblewrap: apt-get install bubblewrap"
    make_rootfs(folder / "rootfs")
    with living(folder / "store") as made:
        made.cowfs("import", str(folder / "rootfs"), "ws")
        yield made
