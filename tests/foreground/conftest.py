"""A workspace served through pyfuse3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.foreground import Foreground
from tests.support.mounting import OBSTACLE


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Foreground]:
    pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed")
    if OBSTACLE:
        pytest.skip(OBSTACLE)
    made = Foreground(tmp_path)
    yield made
    made.close()


@pytest.fixture
def top(foreground: Foreground) -> Path:
    """The mounted workspace."""
    foreground.start()
    return foreground.path
