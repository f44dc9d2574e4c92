"""Scrubbing in the background: one thread, a full pass a week, at the lowest priority, giving way to load."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from cowfs.errors import Busy
from cowfs.results import Scrubbed
from cowfs.scrubbing import RATE_BYTES, Scrubber

log = logging.getLogger("cowfs.scrub")
PERIOD_SECONDS = 7 * 24 * 3600
"""From the end of a pass to the beginning of the next."""

LOOK_SECONDS = 600.0
LOAD_SECONDS = 5.0
"""How long to wait each time that every CPU is busy; at most LOAD_WAITS times between two segments."""

LOAD_WAITS = 60
NICE = 19


class Scrubs:
    """``scrub`` may be called in any thread; ``start`` begins the schedule. ``clock`` in ns since the epoch."""

    def __init__(self, scrubber: Scrubber, clock: Callable[[], int]) -> None:
        self._scrubber = scrubber
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cowfs-scrubbing", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended; a pass goes on with the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def scrub(self, rate: int, progress: Callable[[dict[str, object]], None]) -> Scrubbed:
        """A pass at ``rate`` bytes a second, however busy the machine is. Raises Busy."""
        return self._scrubber.scrub(rate, self._pause, progress)

    def status(self) -> dict[str, object]:
        """Its part of the daemon's status."""
        state = self._scrubber.state()
        return {"passed_at_ns": state.passed_at or None, "running": bool(state.segment), "damage": list(state.damage)}

    def _pause(self, seconds: float) -> bool:
        return not self._stopping.wait(seconds)

    def _patient(self, seconds: float) -> bool:
        waits = 0
        while os.getloadavg()[0] >= (os.cpu_count() or 1) and waits < LOAD_WAITS and self._pause(LOAD_SECONDS):
            waits += 1
        return self._pause(seconds)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while self._pause(LOOK_SECONDS):
            state = self._scrubber.state()
            if not state.segment and self._clock() - state.passed_at < PERIOD_SECONDS * 10**9:
                continue
            try:
                done = self._scrubber.scrub(RATE_BYTES, self._patient, lambda _: None)
            except (Busy, OSError) as error:
                log.warning("scrubbing: %s", error)
                continue
            for line in done.damage:
                log.error("scrubbing found %s: run cowfs fsck --deep", line)
