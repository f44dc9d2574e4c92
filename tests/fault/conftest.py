"""Faults: each test interferes with one system call of a script and looks at what is left."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import Moment, intercepted, moments, new_lab, script


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of stores are made, each with dozens of syncs."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="cowfs-test-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    """The store after each step of the script."""
    return moments(tmp_path_factory.mktemp("undisturbed") / "store")


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the counted system calls that the script makes, store creation excluded."""
    lab = new_lab(tmp_path_factory.mktemp("counted") / "store")
    with intercepted(lambda number, name, real, args, named: real(*args, **named)) as names:
        for step in script():
            step.run(lab)
    lab.close()
    return names
