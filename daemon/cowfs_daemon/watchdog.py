"""Finds workers that hang, and kills them: what follows is what follows the death of one.

A worker hangs when it answers no beat, or when one of its mounts makes no progress with the requests it owes, for
``Limits.idle_beats``; one that is at work, or waits for a processor, has until ``Limits.busy_beats``.

One thread, which never waits for a worker.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from cowfs_daemon.activity import Limits, Silence

log = logging.getLogger("cowfs.watchdog")
BEAT_SECONDS = 2.0


class Watched(Protocol):
    """A worker process."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def ask_pulse(self) -> Future[Any] | None:
        """Ask how it is; None when that cannot be sent now. Never waits."""

    def kill(self) -> None:
        """End it."""

    def notice_end(self) -> None:
        """See whether it has ended without that having been noticed. Never waits."""


@dataclass(slots=True)
class _State:
    asked: Future[Any] | None
    answers: Silence
    progress: Silence


class Watchdog:
    """``workers()`` gives those that are alive and not about to end."""

    def __init__(
        self,
        workers: Callable[[], Iterable[Watched]],
        *,
        beat_seconds: float = BEAT_SECONDS,
        limits: Limits | None = None,
    ) -> None:
        self.killed = 0
        self._workers = workers
        self._beat_seconds = beat_seconds
        self._limits = limits or Limits()
        self._states: dict[Watched, _State] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cowfs-watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Return when it watches no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            try:
                self.beat()
            except Exception:
                log.exception("a beat failed")

    def beat(self) -> None:
        """Look at every worker once."""
        states = {}
        for worker in self._workers():
            worker.notice_end()
            state = self._states.get(worker)
            if state is None:
                silences = (Silence(worker.pid, self._beat_seconds, self._limits) for _ in range(2))
                state = _State(None, *silences)
            why = self._look(worker, state)
            if why:
                log.error("worker %d hangs (%s): killing it", worker.pid, why)
                self.killed += 1
                worker.kill()
            else:
                states[worker] = state
        self._states = states

    def _look(self, worker: Watched, state: _State) -> str:
        """Why a worker is taken to hang, or nothing."""
        if state.asked is not None and not state.asked.done():
            return f"no answer for {state.answers.beats} beats" if state.answers.missed() else ""
        why = ""
        if state.asked is not None and state.asked.exception() is None:
            state.answers.progress()
            _, beats, stuck = state.asked.result()
            if not beats:
                state.progress.progress()
            elif state.progress.missed(beats):
                why = f"no progress with the requests of {stuck} for {beats} beats"
        state.asked = worker.ask_pulse()
        if state.asked is None and state.answers.missed():
            why = f"it takes no message for {state.answers.beats} beats"
        return why
