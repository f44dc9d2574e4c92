"""A worker that dies where the kernel cannot be asked to send requests again: whoever waited gets an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually, other_workers

pytestmark = needs_mounts


@pytest.fixture
def unresent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Owned, Path]]:
    with other_workers(tmp_path, monkeypatch, "unresent", "COWFS_TEST_DOOM", 1) as given:
        yield given


@pytest.mark.interpreted
def test_who_waits_gets_an_error_and_nothing_is_lost(unresent: tuple[Owned, Path]) -> None:
    owned, doom = unresent
    path = owned.make("ws")
    with Agent() as agent:
        assert agent(f"held = os.open({os.fspath(path / 'file')!r}, os.O_RDWR | os.O_CREAT)") is None
        assert agent("os.write(held, b'before')") == 6
        doom.write_text("3")  # carried out and journaled, never answered
        kind, number = agent("os.write(held, b', unanswered')")
        assert (kind, number) in [("errno", errno.ECONNABORTED), ("errno", errno.ENOTCONN)]
        eventually(lambda: owned.engine.host.is_open(owned.engine.workspace("ws").id), "a worker that serves it")
        assert (owned.path("ws") / "file").read_bytes() == b"before, unanswered"
        assert agent("os.write(held, b'!')")[0] == "errno"
