"""Settling in the background: one thread gives frozen layers their roots, as they come."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from cowfs.errors import CowfsError

log = logging.getLogger("cowfs.settling")
IDLE_SECONDS = 5.0
"""How often large live layers are looked for when nothing else happens."""

BACKOFF_SECONDS = 10.0
"""Pause after a failure (a full disk, a damaged block), which is logged."""


class Settles(Protocol):
    """What an engine does for it."""

    def settle_next(self) -> bool:
        """Settle one layer; False when there is none."""
        ...


class Settling:
    """The thread. ``nudge`` makes it look at once; ``stop`` ends it after the layer under way."""

    def __init__(self, engine: Settles, idle: Callable[[], None] = lambda: None) -> None:
        """``idle`` is called when everything has settled, in the thread."""
        self._engine = engine
        self._idle = idle
        self._wake = threading.Condition()
        self._nudged = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="cowfs-settling", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def nudge(self) -> None:
        """There may be a new frozen layer."""
        with self._wake:
            self._nudged = True
            self._wake.notify()

    def stop(self) -> None:
        """Return when the thread has ended."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._wait(IDLE_SECONDS):
            try:
                while not self._stopping and self._engine.settle_next():
                    pass
                if not self._stopping:
                    self._idle()
            except Exception as error:
                if isinstance(error, CowfsError):
                    log.error("settling: %s", error)
                else:
                    log.exception("settling failed")
                if not self._pause():
                    return

    def _wait(self, seconds: float) -> bool:
        """Wait for a nudge; False to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._nudged or self._stopping, seconds)
            self._nudged = False
            return not self._stopping

    def _pause(self) -> bool:
        with self._wake:
            return not self._wake.wait_for(lambda: self._stopping, BACKOFF_SECONDS)
