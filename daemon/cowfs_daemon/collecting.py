"""Garbage collection in the background: one thread, now and then, when something has been removed since."""

import logging
import threading
from typing import Any, Protocol

from cowfs.errors import CowfsError
from cowfs.results import Collected

log = logging.getLogger("cowfs.gc")
PAUSE_SECONDS = 600.0
"""Between two looks whether there is something to collect."""


class Collects(Protocol):
    """What an engine's collector does for it."""

    worthwhile: bool

    def collect(self, dry_run: bool, progress: Any) -> Collected:
        """Collect."""
        ...


class Collecting:
    """The thread; ``stop`` ends it, after the collection under way."""

    def __init__(self, collector: Collects, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._collector = collector
        self._pause = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cowfs-collecting", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._pause):
            if not self._collector.worthwhile:
                continue
            try:
                done = self._collector.collect(False, lambda _: None)
                log.info("removed %d blocks, %d bytes; %d bytes of files", done.blocks, done.bytes, done.freed_bytes)
            except CowfsError as error:
                log.error("garbage collection: %s", error)
            except Exception:
                log.exception("garbage collection failed")
