"""A fresh store per test, checked when the test is done."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A store with a workspace ``ws``; closed and checked at the end."""
    lab = Lab(tmp_path / "store")
    lab.engine.create("ws")
    yield lab
    lab.close()
