"""Control log: its operations and rows (docs/format-control.md). Pure, no I/O.

One entry of the log (cowfs.formats.control_file) is one atomic group of operations. An operation is a
``NamedTuple`` whose fields are encoded in order by the codecs of ``_SCHEMA``. Rows (``WorkspaceEntry``,
``LayerEntry``, ``SnapshotEntry``, ``Counters``) are operations too: a compacted log holds the tables as rows.

Invariants:
- ``decode_operations(encode_operations(ops)) == ops``, and the other way round for every string that decodes;
- decoding raises :class:`Corrupt` on any malformed byte string, never anything else;
- encoding raises :class:`Invalid` when a text or value is longer than its field can hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from cowfs.errors import Corrupt, Invalid
from cowfs.formats.control_fields import (
    BOOL,
    BYTES,
    I64,
    ID,
    OPTIONAL_ID,
    POSITION,
    ROOT,
    SPAN,
    TEXT,
    U64,
    Codec,
    many,
    optional,
)
from cowfs.formats.control_fields import Span as Span

# ---- operations: what happened -------------------------------------------------------------------------------


class WorkspaceCreated(NamedTuple):
    """A new workspace whose live layer ``live_layer`` lies on ``parent_layer``. A fork of N puts N in one entry."""

    id: str
    name: str
    created_at: int
    live_layer: str
    parent_layer: str
    head: str | None
    origin_workspace: str | None
    origin_snapshot: str | None
    next_ino: int


class Froze(NamedTuple):
    """``layer``, until now live in ``workspace``, is immutable; ``live_layer`` is live on top of it.

    ``spans`` are the journal bytes that hold the layer, in order.
    """

    layer: str
    workspace: str
    parent_layer: str | None
    spans: tuple[Span, ...]
    next_ino: int
    live_layer: str


class LayerImported(NamedTuple):
    """A settled layer that never had a journal. ``root`` is a 32-byte block id."""

    layer: str
    parent: str | None
    root: bytes
    next_ino: int
    logical_bytes: int = 0
    inodes: int = 0


class SnapshotMade(NamedTuple):
    """A snapshot of ``layer``; becomes the head of ``workspace``. ``created_at`` in ns since the epoch."""

    id: str
    workspace: str
    parent: str | None
    layer: str
    message: str
    labels: tuple[str, ...]
    creator: str
    created_at: int
    automatic: bool


class Restored(NamedTuple):
    """``workspace`` shows ``snapshot`` again: its head, with a new live layer on the snapshot's layer."""

    workspace: str
    snapshot: str
    live_layer: str
    parent_layer: str
    next_ino: int


class Position(NamedTuple):
    """Up to here the markers of the workspace's journal are in the control log; its live layer begins here."""

    workspace: str
    file_no: int
    offset: int
    seq: int


class Settled(NamedTuple):
    """``layer`` is in the block store as ``root``; its journal is no longer needed."""

    layer: str
    root: bytes
    logical_bytes: int
    inodes: int


class Labelled(NamedTuple):
    """``label`` of ``workspace`` names ``snapshot``; None removes the label."""

    workspace: str
    label: str
    snapshot: str | None


class Renamed(NamedTuple):
    """``workspace`` has a new name."""

    workspace: str
    name: str


class WorkspaceRemoved(NamedTuple):
    """The workspace, its labels and its snapshots are gone."""

    workspace: str


class SnapshotRemoved(NamedTuple):
    """The snapshot is gone, with every label that named it."""

    snapshot: str


class LayersDropped(NamedTuple):
    """Layers that nothing needs any more leave the tables (garbage collection)."""

    layers: tuple[str, ...]


class Set(NamedTuple):
    """A setting (quota, retention, ttl, pin, …) of a workspace, a snapshot or ``store``; None removes it."""

    target: str
    key: str
    value: bytes | None


class Idempotency(NamedTuple):
    """The result of the request that carried ``key``, to be given again until ``expires_at`` (ns).

    ``request``: 32 bytes, the digest of what was asked for; another request under the same key is refused.
    ``result``: see :mod:`cowfs.remembered`.
    """

    key: str
    expires_at: int
    request: bytes
    result: bytes


# ---- rows: what is ---------------------------------------------------------------------------------------------


class WorkspaceEntry(NamedTuple):
    """One workspace. ``head`` and ``origin_snapshot`` are None when that snapshot was removed.

    ``fork_ordinal``: snapshots of ``origin_workspace`` with at most this ordinal belong to this workspace's line.
    ``position``: journal position (file number, offset, sequence), None before the first :class:`Position`.
    """

    id: str
    name: str
    created_at: int
    live_layer: str
    parent_layer: str
    head: str | None
    origin_workspace: str | None
    origin_snapshot: str | None
    fork_ordinal: int
    next_ino: int
    position: tuple[int, int, int] | None


class LayerEntry(NamedTuple):
    """One frozen or settled layer. ``root`` is None until settled; from then on ``spans`` is empty."""

    id: str
    parent: str | None
    workspace: str | None
    spans: tuple[Span, ...]
    next_ino: int
    root: bytes | None
    logical_bytes: int
    inodes: int


class SnapshotEntry(NamedTuple):
    """One snapshot. ``ordinal`` grows by one with every snapshot of the store: the order they were made in."""

    id: str
    workspace: str
    parent: str | None
    layer: str
    message: str
    creator: str
    created_at: int
    automatic: bool
    ordinal: int


class Counters(NamedTuple):
    """The ordinal of the newest snapshot ever made in this store."""

    ordinal: int


Operation = (
    WorkspaceCreated | Froze | LayerImported | SnapshotMade | Restored | Position | Settled | Labelled | Renamed
    | WorkspaceRemoved | SnapshotRemoved | LayersDropped | Set | Idempotency
)  # fmt: skip
Row = WorkspaceEntry | LayerEntry | SnapshotEntry | Counters


_SCHEMA: tuple[tuple[int, type[Any], tuple[Codec, ...]], ...] = (
    (1, WorkspaceCreated, (ID, TEXT, I64, ID, ID, OPTIONAL_ID, OPTIONAL_ID, OPTIONAL_ID, U64)),
    (2, Froze, (ID, ID, OPTIONAL_ID, many(SPAN), U64, ID)),
    (3, LayerImported, (ID, OPTIONAL_ID, ROOT, U64, U64, U64)),
    (4, SnapshotMade, (ID, ID, OPTIONAL_ID, ID, TEXT, many(TEXT), TEXT, I64, BOOL)),
    (5, Restored, (ID, ID, ID, ID, U64)),
    (6, Position, (ID, U64, U64, U64)),
    (7, Settled, (ID, ROOT, U64, U64)),
    (8, Labelled, (ID, TEXT, OPTIONAL_ID)),
    (9, Renamed, (ID, TEXT)),
    (10, WorkspaceRemoved, (ID,)),
    (11, SnapshotRemoved, (ID,)),
    (12, LayersDropped, (many(ID),)),
    (13, Set, (ID, TEXT, optional(BYTES))),
    (14, Idempotency, (TEXT, I64, ROOT, BYTES)),
    (64, WorkspaceEntry,
     (ID, TEXT, I64, ID, ID, OPTIONAL_ID, OPTIONAL_ID, OPTIONAL_ID, U64, U64, optional(POSITION))),
    (65, LayerEntry, (ID, OPTIONAL_ID, OPTIONAL_ID, many(SPAN), U64, optional(ROOT), U64, U64)),
    (66, SnapshotEntry, (ID, ID, OPTIONAL_ID, ID, TEXT, TEXT, I64, BOOL, U64)),
    (67, Counters, (U64,)),
)  # fmt: skip
KINDS: dict[type[Any], int] = {cls: kind for kind, cls, _ in _SCHEMA}
"""Operation or row class -> its kind byte."""

_PUT = {cls: (kind, tuple(codec.put for codec in codecs)) for kind, cls, codecs in _SCHEMA}
_GET = {kind: (cls._make, tuple(codec.get for codec in codecs)) for kind, cls, codecs in _SCHEMA}
_OPERATION = struct.Struct("<BI")  # kind, bytes of the body


def encode_operations(operations: Iterable[Operation | Row]) -> bytes:
    """The payload of one entry. Raises :class:`Invalid` when a field cannot hold its value."""
    parts: list[bytes] = []
    for operation in operations:
        kind, puts = _PUT[type(operation)]
        try:
            body = b"".join([put(value) for put, value in zip(puts, operation, strict=True)])
        except struct.error:
            raise Invalid(f"{type(operation).__name__}: a number is out of range") from None
        parts += (_OPERATION.pack(kind, len(body)), body)
    return b"".join(parts)


def decode_operations(payload: bytes) -> tuple[Operation | Row, ...]:
    """The inverse of :func:`encode_operations`. Raises :class:`Corrupt`."""
    operations: list[Operation | Row] = []
    at, end = 0, len(payload)
    while at < end:
        if end - at < _OPERATION.size:
            raise Corrupt("control log: operation too short")
        kind, size = _OPERATION.unpack_from(payload, at)
        at += _OPERATION.size
        if size > end - at:
            raise Corrupt("control log: operation runs past its entry")
        operations.append(_decode_body(kind, payload[at : at + size]))
        at += size
    return tuple(operations)


def _decode_body(kind: int, body: bytes) -> Operation | Row:
    schema = _GET.get(kind)
    if schema is None:
        raise Corrupt(f"control log: unknown operation kind {kind}", hint="a newer cowfs may have written it: upgrade")
    make, gets = schema
    values, at = [], 0
    try:
        for get in gets:
            value, at = get(body, at)
            values.append(value)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise Corrupt("control log: malformed operation") from None
    if at != len(body):
        raise Corrupt("control log: operation has bytes left over")
    operation: Operation | Row = make(values)
    return operation
