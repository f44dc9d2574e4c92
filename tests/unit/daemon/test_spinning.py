"""A reader spins before it sleeps, as long as it has the processor to itself."""

from __future__ import annotations

import os
import select
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cowfs_daemon.fuse import session
from cowfs_daemon.fuse.session import Session

SPIN_S = 0.0001

pytestmark = pytest.mark.interpreted


class Waiting:
    """A reader that waits again and again, by a clock of its own; no request ever comes, every sleep is short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.spins = 0
        self.taken_s = SPIN_S / 10
        self.session = cast(Any, Session.__new__(Session))
        self.session._server = SimpleNamespace(spin_s=SPIN_S)
        self.session._spin_credit, self.session._stopping = session._SPIN_CREDIT, False
        monkeypatch.setattr(os, "sched_yield", self._yield)
        monkeypatch.setattr(session, "perf_counter", lambda: self.now)

    def _yield(self) -> None:
        self.spins += 1
        self.now += self.taken_s

    def waits(self, times: int) -> int:
        """In how many of so many waits it spun."""
        spun = 0
        poller = cast(select.poll, SimpleNamespace(poll=lambda timeout: []))
        for _ in range(times):
            before = self.spins
            self.session._wait(poller, 0.001)
            spun += self.spins > before
        return spun


def test_it_spins_as_long_as_sleeps_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Waiting(monkeypatch).waits(50) == 50


def test_it_stops_for_long_once_another_program_had_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(monkeypatch)
    usual, waiting.taken_s = waiting.taken_s, 2 * session._TAKEN_S + SPIN_S
    assert waiting.waits(1) == 1
    waiting.taken_s = usual
    assert waiting.waits(session._SPIN_PAUSE) == 0
    assert waiting.waits(10) == 10
