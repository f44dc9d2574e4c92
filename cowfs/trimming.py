"""Removes journal files that nothing needs any more, but none under the eyes of who reads a chain of layers.

Whoever takes a chain of layers from the catalog and then has a host read them says so (:meth:`Trimming.holding`):
files that become needless meanwhile stay until everybody who may have seen them is done.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.lineage import trim


class Trimming:
    """``lock`` is the engine's, for the catalog. Thread-safe."""

    def __init__(self, catalog: Catalog, lock: threading.RLock, journals: Path) -> None:
        self._catalog = catalog
        self._lock = lock
        self._journals = journals
        self._tickets = itertools.count()
        self._held: set[int] = set()
        self._owed: dict[str, int] = {}

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Around taking a chain from the catalog and reading its layers."""
        with self._lock:
            ticket = next(self._tickets)
            self._held.add(ticket)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(ticket)
                oldest = min(self._held, default=None)
                due = [workspace for workspace, since in self._owed.items() if oldest is None or since < oldest]
                for workspace in due:
                    del self._owed[workspace]
                    trim(self._catalog, self._journals, workspace)

    def trim(self, workspace: str) -> None:
        """Remove journal files of a workspace that nothing needs any more. Raises OSError."""
        with self._lock:
            self._catalog.sync()  # a position that a power loss takes back would need them again
            if self._held:
                self._owed[workspace] = next(self._tickets)
            else:
                trim(self._catalog, self._journals, workspace)
