"""The messages of containerd's snapshots service, made at run time from the table below.

Field numbers and types are those that containerd publishes (``api/services/snapshots/v1/snapshots.proto`` and
``api/types/mount.proto``); they never change.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
)

SERVICE: Final = "containerd.services.snapshots.v1.Snapshots"
_PACKAGE: Final = "containerd.services.snapshots.v1"
UNKNOWN, VIEW, ACTIVE, COMMITTED = range(4)
"""The kinds of a snapshot."""

_KEYED = {1: ("snapshotter", "string"), 2: ("key", "string")}
_LABELS = ("labels", "map")
_MOUNTS = {1: ("mounts", "*.containerd.types.Mount")}
_INFO = f".{_PACKAGE}.Info"

_TABLE: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "PrepareSnapshotRequest": {**_KEYED, 3: ("parent", "string"), 4: _LABELS},
    "PrepareSnapshotResponse": _MOUNTS,
    "ViewSnapshotRequest": {**_KEYED, 3: ("parent", "string"), 4: _LABELS},
    "ViewSnapshotResponse": _MOUNTS,
    "MountsRequest": _KEYED,
    "MountsResponse": _MOUNTS,
    "RemoveSnapshotRequest": _KEYED,
    "CommitSnapshotRequest": {1: ("snapshotter", "string"), 2: ("name", "string"), 3: ("key", "string"), 4: _LABELS},
    "StatSnapshotRequest": _KEYED,
    "Info": {
        1: ("name", "string"),
        2: ("parent", "string"),
        3: ("kind", "enum"),
        4: ("created_at", ".google.protobuf.Timestamp"),
        5: ("updated_at", ".google.protobuf.Timestamp"),
        6: _LABELS,
    },
    "StatSnapshotResponse": {1: ("info", _INFO)},
    "UpdateSnapshotRequest": {
        1: ("snapshotter", "string"),
        2: ("info", _INFO),
        3: ("update_mask", ".google.protobuf.FieldMask"),
    },
    "UpdateSnapshotResponse": {1: ("info", _INFO)},
    "ListSnapshotsRequest": {1: ("snapshotter", "string"), 2: ("filters", "*string")},
    "ListSnapshotsResponse": {1: ("info", "*" + _INFO)},
    "UsageRequest": _KEYED,
    "UsageResponse": {1: ("size", "int64"), 2: ("inodes", "int64")},
    "CleanupRequest": {1: ("snapshotter", "string")},
}
"""Message -> number -> (field, type); ``*`` is repeated, a map is of texts, the enum is Kind."""

_MOUNT: Final = {1: ("type", "string"), 2: ("source", "string"), 3: ("target", "string"), 4: ("options", "*string")}
_SCALARS = {"string": 9, "int64": 3}


def _describe(file: Any, name: str, fields: dict[int, tuple[str, str]]) -> None:
    message = file.message_type.add(name=name)
    for number, (field, kind) in fields.items():
        made = message.field.add(name=field, number=number, label=3 if kind[0] == "*" or kind == "map" else 1)
        kind = kind.lstrip("*")
        if kind == "map":
            entry = message.nested_type.add(name=field.capitalize() + "Entry")
            entry.options.map_entry = True
            for at, part in ((1, "key"), (2, "value")):
                entry.field.add(name=part, number=at, label=1, type=_SCALARS["string"])
            made.type, made.type_name = 11, f".{file.package}.{name}.{entry.name}"
        elif kind == "enum":
            made.type, made.type_name = 14, f".{_PACKAGE}.Kind"
        elif kind in _SCALARS:
            made.type = _SCALARS[kind]
        else:
            made.type, made.type_name = 11, kind


def _pool() -> Any:
    """A pool of its own: nothing else of the process that knows these messages is disturbed."""
    pool = descriptor_pool.DescriptorPool()
    known = [timestamp_pb2.DESCRIPTOR, field_mask_pb2.DESCRIPTOR, empty_pb2.DESCRIPTOR]
    for each in known:
        pool.AddSerializedFile(each.serialized_pb)
    mount = descriptor_pb2.FileDescriptorProto(name="mount.proto", package="containerd.types", syntax="proto3")
    _describe(mount, "Mount", _MOUNT)
    pool.Add(mount)
    file = descriptor_pb2.FileDescriptorProto(name="snapshots.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.extend([mount.name, *(each.name for each in known)])
    kind = file.enum_type.add(name="Kind")
    for number, name in enumerate(("UNKNOWN", "VIEW", "ACTIVE", "COMMITTED")):
        kind.value.add(name=name, number=number)
    for name, fields in _TABLE.items():
        _describe(file, name, fields)
    pool.Add(file)
    return pool


_POOL: Final = _pool()


def message(name: str) -> Any:
    """The class of a message of the service, or of ``google.protobuf.Empty``. Raises KeyError."""
    full = name if "." in name else f"{_PACKAGE}.{name}"
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full))


METHODS: Final = {
    "Prepare": ("PrepareSnapshotRequest", "PrepareSnapshotResponse"),
    "View": ("ViewSnapshotRequest", "ViewSnapshotResponse"),
    "Mounts": ("MountsRequest", "MountsResponse"),
    "Commit": ("CommitSnapshotRequest", "google.protobuf.Empty"),
    "Remove": ("RemoveSnapshotRequest", "google.protobuf.Empty"),
    "Stat": ("StatSnapshotRequest", "StatSnapshotResponse"),
    "Update": ("UpdateSnapshotRequest", "UpdateSnapshotResponse"),
    "List": ("ListSnapshotsRequest", "ListSnapshotsResponse"),
    "Usage": ("UsageRequest", "UsageResponse"),
    "Cleanup": ("CleanupRequest", "google.protobuf.Empty"),
}
"""What each is asked with and answers; the answer of List is a stream."""
