"""Settling in the background: one thread gives frozen layers their roots, as they come.

While it does, a second one freezes live layers that become large meanwhile: a layer may take long.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from cowfs.errors import CowfsError

log = logging.getLogger("cowfs.settling")
IDLE_SECONDS = 2.0
"""How often large live layers are looked for when nothing else happens."""

FREEZE_SECONDS = 0.5
"""How often large live layers are looked for while something is being settled."""

BACKOFF_SECONDS = 10.0
"""Pause after a failure (a full disk, a damaged block), which is logged."""


class Settles(Protocol):
    """What an engine does for it."""

    def settle_next(self) -> bool:
        """Settle one layer; False when there is none."""
        ...

    def freeze_large(self) -> None:
        """Freeze live layers that have become large."""
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
        self._busy = False
        self._drained = monotonic()
        self._thread = threading.Thread(target=self._run, name="cowfs-settling", daemon=True)
        self._freezer = threading.Thread(target=self._freeze, name="cowfs-freezing", daemon=True)

    @property
    def drained_s(self) -> float:
        """Seconds since nothing was left to settle, as far as this thread has looked."""
        return monotonic() - self._drained

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._freezer.start()

    def nudge(self) -> None:
        """There may be a new frozen layer."""
        with self._wake:
            self._nudged = True
            self._wake.notify_all()

    def stop(self) -> None:
        """Return when the thread has ended."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in (self._thread, self._freezer):
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while self._wait(IDLE_SECONDS):
            try:
                while not self._stopping and self._engine.settle_next():
                    pass
                self._busy = False
                self._drained = monotonic()
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
            self._busy = not self._stopping
            self._wake.notify_all()
            return self._busy

    def _freeze(self) -> None:
        """While a layer is being settled, the other thread cannot look for those that have become large."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._busy or self._stopping)
                if self._wake.wait_for(lambda: self._stopping, FREEZE_SECONDS):
                    return
                if not self._busy:
                    continue
            try:
                self._engine.freeze_large()
            except CowfsError as error:
                log.error("freezing: %s", error)
            except Exception:
                log.exception("freezing failed")

    def _pause(self) -> bool:
        with self._wake:
            return not self._wake.wait_for(lambda: self._stopping, BACKOFF_SECONDS)
