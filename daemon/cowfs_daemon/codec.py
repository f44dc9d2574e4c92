"""Values that cross between owner and worker: JSON text <-> None, numbers, text, bytes, tuples, dicts, and records.

A record is a ``NamedTuple`` or a frozen dataclass of the list below: ``{"r": name, "v": [fields]}``. Bytes are
``{"b": base64}``, dictionaries ``{"d": [[key, value], …]}``; lists and tuples are arrays, and come back as tuples.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from cowfs.errors import Corrupt
from cowfs.formats import control
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Done, LayerSpec, Point
from cowfs.layers.journal import JournalStatistics
from cowfs.pressure import Backlog
from cowfs.remembered import Request
from cowfs.results import Change, Handle
from cowfs.subtrees import Part
from cowfs.view.inode import ViewStatistics
from cowfs.view.room import Quota
from cowfs.workspace import CheckpointOrder, WorkspaceStatistics
from cowfs_daemon.fuse.served import Handed

_OPERATIONS = (
    control.WorkspaceCreated,
    control.Froze,
    control.LayerImported,
    control.SnapshotMade,
    control.Restored,
    control.Position,
    control.Settled,
    control.Labelled,
    control.Renamed,
    control.WorkspaceRemoved,
    control.SnapshotRemoved,
    control.LayersDropped,
    control.Set,
    control.Idempotency,
    control.Span,
)
_RECORDS: tuple[type, ...] = (
    Backlog,
    BranchSpec,
    Change,
    CheckpointOrder,
    Content,
    Done,
    Handle,
    JournalStatistics,
    LayerSpec,
    Part,
    Point,
    Quota,
    Request,
    ViewStatistics,
    WorkspaceStatistics,
    Handed,
)
_PLAIN = (bool, int, float, str, type(None))


def _field_names(record: type) -> tuple[str, ...]:
    if is_dataclass(record):
        return tuple(field.name for field in fields(record))
    names: tuple[str, ...] = record._fields  # type: ignore[attr-defined]
    return names


_NAMES: dict[type, tuple[str, tuple[str, ...]]] = {
    **{record: (record.__name__, _field_names(record)) for record in _RECORDS},
    **{record: ("control." + record.__name__, _field_names(record)) for record in _OPERATIONS},
}
_TYPES = {name: (record, len(names)) for record, (name, names) in _NAMES.items()}


def encode(value: object) -> bytes:
    """Raises TypeError for a value of a type that does not cross."""
    return json.dumps(_pack(value), separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Any:
    """Raises Corrupt on anything that ``encode`` does not produce."""
    try:
        return _unpack(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"a malformed message between owner and worker: {error}") from error


def _pack(value: object) -> object:
    kind = type(value)
    if kind in _PLAIN:
        return value
    known = _NAMES.get(kind)
    if known is not None:
        return {"r": known[0], "v": [_pack(getattr(value, name)) for name in known[1]]}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {"d": [[_pack(key), _pack(each)] for key, each in value.items()]}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_pack(each) for each in value]
    raise TypeError(f"{kind.__name__} does not cross between processes")


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return tuple([_unpack(each) for each in value])
    if not isinstance(value, dict):
        return value
    if "b" in value:
        try:
            return base64.b64decode(value["b"], validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from error
    if "d" in value:
        return {_unpack(key): _unpack(each) for key, each in value["d"]}
    record, arity = _TYPES[value["r"]]
    if len(value["v"]) != arity:
        raise ValueError(f"{value['r']} with {len(value['v'])} fields")
    return record(*[_unpack(each) for each in value["v"]])
