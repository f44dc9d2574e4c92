"""A served store and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.client.store import Store
from tests.support.servedstore import ServedStore


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedStore]:
    """A store behind the API."""
    served = ServedStore(tmp_path)
    served.start()
    yield served
    served.stop()


@pytest.fixture
def client(served: ServedStore) -> Iterator[Store]:
    """A client of it."""
    with served.connect() as client:
        yield client
