"""Idempotency keys: a request that comes again under the key of one that was carried out is given that one's result.

A result is part of the control log entry that makes its verb's effect durable, so that both are there or neither.
Where a marker in a journal is the commit point, the marker carries the key, and the result follows from it.

Requests under one key come one after the other: their caller sees to that (the API's lock of the key).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from cowfs.catalog.catalog import Catalog
from cowfs.errors import Conflict
from cowfs.formats import control
from cowfs.remembered import KEPT_NS, Made, Request, Result, WentBack, decode_result, encode_result
from cowfs.results import Checkpointed, Handle, Restored, Snapshot

Entries = Callable[[], Iterable[control.Operation]]
"""Operations that end a group, made when the rest of it has been applied."""


class Keys:
    """The results that a store keeps. ``lock`` is the engine's, for the catalog; ``clock`` gives ns."""

    def __init__(self, catalog: Catalog, lock: threading.RLock, clock: Callable[[], int]) -> None:
        self._catalog = catalog
        self._lock = lock
        self._clock = clock

    def find(self, request: Request | None) -> Result | None:
        """The result of the request, if it was carried out. Raises Conflict when its key was used for another."""
        with self._lock:
            kept = None if request is None else self._catalog.result(request.key)
            if request is None or kept is None or kept.expires_at <= self._clock():
                return None
        if kept.request != request.digest:
            raise Conflict("this idempotency key was used for another request", hint="Use a new key for each request.")
        return decode_result(kept.result)

    def of(self, request: Request | None, result: Callable[[], Result]) -> Entries | None:
        """For :meth:`Catalog.commit`: what keeps ``result()`` for the request."""
        if request is None:
            return None
        expires_at = self._clock() + KEPT_NS
        return lambda: (control.Idempotency(request.key, expires_at, request.digest, encode_result(result())),)

    def completed(
        self, from_markers: Sequence[control.Idempotency], handles: tuple[Handle, ...] = ()
    ) -> Entries | None:
        """The same for keys that markers carry; ``handles``: of a restore, if they are known."""

        def complete(entry: control.Idempotency) -> control.Idempotency:
            result = decode_result(entry.result)
            if isinstance(result, Made):
                result = Checkpointed(self._snapshot(result.snapshot), True)
            elif isinstance(result, WentBack):
                undo = None if result.undo is None else self._snapshot(result.undo)
                result = Restored(self._snapshot(result.snapshot), undo, result.changed_inodes, handles)
            return entry._replace(result=encode_result(result))

        if not from_markers:
            return None
        return lambda: tuple(map(complete, from_markers))

    def _snapshot(self, snapshot: str) -> Snapshot:
        return snapshot_result(self._catalog, self._catalog.snapshot(snapshot))


def snapshot_result(catalog: Catalog, entry: control.SnapshotEntry) -> Snapshot:
    """A snapshot as the verbs return it."""
    root = catalog.layer(entry.layer).root
    return Snapshot(
        entry.id, catalog.workspace(entry.workspace).name, entry.parent, entry.message,
        catalog.labels_of(entry.id), entry.creator, entry.created_at, entry.automatic,
        "frozen" if root is None else "settled", None if root is None else root.hex(),
    )  # fmt: skip
