"""What the owner of a store has a workspace do, and how its journal remembers who asked."""

from __future__ import annotations

from typing import NamedTuple

from cowfs.formats import control
from cowfs.formats import journal as j
from cowfs.layers.layer import Layer
from cowfs.remembered import KEPT_NS, Made, Request, WentBack, encode_result


class CheckpointOrder(NamedTuple):
    """What to make: ids are chosen by the owner of the store; ``live`` is the id of the next live layer.

    ``labels`` are taken from whatever has them. ``request``: who asked, for what comes again under the same key.
    """

    snapshot: str
    live: str
    message: str
    labels: tuple[str, ...] = ()
    creator: str = ""
    automatic: bool = False
    allow_empty: bool = False
    request: Request | None = None


class RestoreOrder(NamedTuple):
    """Where to go. ``undo``: how to keep the state before, None to discard it. ``live``: the new live layer.
    ``closed``: a name at the root that must not be open; b"": none."""

    snapshot: str
    target: Layer
    live: str
    undo: CheckpointOrder | None
    force: bool = False
    request: Request | None = None
    closed: bytes = b""


def asked(request: Request | None) -> tuple[bytes, bytes]:
    """The fields of a marker that say who asked for it."""
    return (b"", b"") if request is None else (request.key.encode(), request.digest)


def kept(record: j.Checkpoint | j.Restore, time: int, result: Made | WentBack) -> tuple[control.Operation, ...]:
    """What the control log is to know of the request that a marker was written for; its result is still an outline."""
    if not record.key:
        return ()
    return (control.Idempotency(record.key.decode(), time + KEPT_NS, record.request, encode_result(result)),)
