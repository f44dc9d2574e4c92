"""Looking at states without changing them: diff, one file's bytes, what a mount is to show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cowfs.catalog.catalog import Catalog
from cowfs.catalog.refs import Resolved, resolve
from cowfs.formats.control import WorkspaceEntry
from cowfs.host import Host, Point
from cowfs.lineage import chain, horizon
from cowfs.results import Change
from cowfs.trimming import Trimming

PIECE_BYTES = 1 << 20


class Looking:
    """``ready(name)`` lets the host serve a workspace; ``freeze(name)`` freezes one without a snapshot.

    ``lock`` is the engine's, for the catalog; the host is called without it.
    """

    def __init__(
        self,
        catalog: Catalog,
        lock: threading.RLock,
        host: Host,
        trimming: Trimming,
        ready: Callable[[str], WorkspaceEntry],
        freeze: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._lock = lock
        self._host = host
        self._trimming = trimming
        self._ready = ready
        self._freeze = freeze

    def diff(self, a: str, b: str, limit: int | None = None) -> list[Change]:
        """What differs between two references, by path, the first ``limit`` of it. Raises NotFound, Invalid."""
        with self._trimming.holding():
            left, right = self._resolve(a), self._resolve(b)
            old, new = self._point(left), self._point(right)
            if not old.chain and not new.chain and not self._host.together(old.workspace, new.workspace):
                # One process can look at one of the two live states only.
                self._freeze(right.workspace.name)
                with self._lock:
                    parent = self._catalog.workspace(new.workspace).parent_layer
                    new = Point(new.workspace, chain(self._catalog, parent))
            with self._lock:
                common = horizon(self._catalog, left, right)
            return self._host.diff(old, new, common, limit)

    def show(self, ref: str, path: bytes) -> Iterator[bytes]:
        """The bytes of one file of a workspace or snapshot, in pieces. Raises NotFound, Invalid."""
        offset = 0
        with self.look(ref) as (_, point):
            while True:
                data, size = self._host.read(point, path, offset, PIECE_BYTES)
                yield data
                offset += len(data)
                if offset >= size or not data:
                    return

    @contextmanager
    def look(self, ref: str) -> Iterator[tuple[str, Point]]:
        """(id, point) of a reference: a workspace, which the host serves, or a snapshot. Raises NotFound.

        The point can be read within the context.
        """
        with self._trimming.holding():
            found = self._resolve(ref)
            yield (found.workspace if found.snapshot is None else found.snapshot).id, self._point(found)

    def _resolve(self, ref: str) -> Resolved:
        with self._lock:
            return resolve(self._catalog, ref)

    def _point(self, found: Resolved) -> Point:
        if found.snapshot is None:
            self._ready(found.workspace.name)
            return Point(found.workspace.id, ())
        with self._lock:
            return Point(found.workspace.id, chain(self._catalog, found.snapshot.layer))
