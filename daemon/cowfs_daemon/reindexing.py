"""Ends a daemon whose block index is damaged, so that its successor, which makes the index anew, takes over.

Every process of the daemon has the index mapped, so it can only be replaced while none runs. Programs in mounted
workspaces wait meanwhile, as for any successor.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from cowfs.blocks.suspect import suspicion

log = logging.getLogger("cowfs.index")
LOOK_SECONDS = 5.0
EXIT_REINDEX = 75
"""Exit code of a supervisor that wants a successor."""


def give_way() -> None:
    """End this process at once: everything acknowledged is in journals and control log."""
    os._exit(EXIT_REINDEX)


class IndexWatch:
    """A thread that looks for a suspicion of the index in the directory ``index``; ``end`` is called then."""

    def __init__(self, index: Path, end: Callable[[], None] = give_way) -> None:
        self._index = index
        self._end = end
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="cowfs-index-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def look(self) -> None:
        """There may be a suspicion: look at once."""
        self._wake.set()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            if self._stopping:
                return
            reason = suspicion(self._index)
            if reason is not None:
                log.error("the block index is damaged (%s): a new daemon takes over and rebuilds it", reason)
                self._end()
                return
