"""Keeping the store small in the background: one thread that applies retention and collects garbage now and then.

It also allocates the reserve again when there is space for it.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from cowfs.errors import CowfsError
from cowfs.results import Collected, Pruned

log = logging.getLogger("cowfs.gc")
LOOK_SECONDS = 60.0
"""Between two looks at what the rules let go, and at the reserve."""

COLLECT_SECONDS = 600.0
"""Between two looks whether there is something to collect."""


class Collects(Protocol):
    """What an engine's collector does for it."""

    worthwhile: bool

    def collect(self, dry_run: bool, progress: Any) -> Collected:
        """Collect."""
        ...


class Retains(Protocol):
    """What an engine's retention does for it."""

    def apply(self) -> Sequence[Pruned]:
        """Remove what the rules let go."""
        ...


class Reserves(Protocol):
    """What an engine's reserve does for it."""

    def refill(self) -> None:
        """Allocate it again."""
        ...


class Collecting:
    """The thread; ``stop`` ends it, after what is under way."""

    def __init__(
        self,
        collector: Collects,
        retention: Retains,
        reserve: Reserves,
        look_seconds: float = LOOK_SECONDS,
        collect_seconds: float = COLLECT_SECONDS,
    ) -> None:
        self._collector = collector
        self._retention = retention
        self._reserve = reserve
        self._pause = look_seconds
        self._looks = max(round(collect_seconds / look_seconds), 1)
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
        look = 0
        while not self._stopping.wait(self._pause if look else 0):
            self._guarded(self._reserve.refill)
            if look:
                self._guarded(self._retain)
            if look and not look % self._looks and self._collector.worthwhile:
                self._guarded(self._collect)
            look += 1

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except CowfsError as error:
            log.error("%s", error)
        except Exception:
            log.exception("%s failed", work.__name__)

    def _retain(self) -> None:
        for each in self._retention.apply():
            log.info("removed %s %s of %s: %s", each.kind, each.id, each.workspace, each.why)

    def _collect(self) -> None:
        done = self._collector.collect(False, lambda _: None)
        log.info("removed %d blocks, %d bytes; %d bytes of files", done.blocks, done.bytes, done.freed_bytes)
