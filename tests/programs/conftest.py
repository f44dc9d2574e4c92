"""The two places that every program runs in: a mounted workspace and a native directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.live import Live, live_store
from tests.support.mounting import OBSTACLE

RUN_S = 240.0


def run(script: str, place: Path, **environment: str) -> str:
    """Run a bash script in ``place``; what it printed. It must succeed."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=place,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@dataclass
class Pair:
    """``mounted`` is a directory of a mounted workspace, ``native`` one of the filesystem below the store."""

    live: Live
    mounted: Path
    native: Path

    def both(self, script: str, **environment: str) -> str:
        """Run a script in both places; they must print the same, which is returned."""
        mounted, native = run(script, self.mounted, **environment), run(script, self.native, **environment)
        assert mounted == native
        return native

    def wreck_and_restore(self, wreck: str, *, settle: bool = False) -> None:
        """Checkpoint the workspace, run ``wreck`` in it alone, and restore it."""
        self.live.engine.checkpoint("ws", "before the wreck", "good", move=True)
        if settle:
            self.live.engine.settle()
        run(wreck, self.mounted)
        self.live.engine.restore("ws", "@good")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Both places, empty. Skips where nothing can be mounted."""
    if OBSTACLE:
        pytest.skip(OBSTACLE)
    native = tmp_path / "native"
    native.mkdir()
    with live_store(tmp_path) as live:
        live.engine.create("ws")
        place = live.mount("ws") / "native"  # the same name, so that outputs with paths in them can be compared
        place.mkdir()
        yield Pair(live, place, native)


@pytest.fixture
def need() -> Callable[..., None]:
    """Skips when a program is not installed."""

    def check(*programs: str) -> None:
        for program in programs:
            if subprocess.run(["which", program], capture_output=True, check=False).returncode:
                pytest.skip(f"{program} is not installed")

    return check
