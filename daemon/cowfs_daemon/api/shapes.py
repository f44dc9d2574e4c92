"""The JSON shapes of results: the same over the wire and in the CLI's ``--json``.

Times are RFC 3339 UTC with nine decimals. A path that is not UTF-8 has U+FFFD in ``path`` and its exact bytes in
``path_b64``.
"""

import base64
import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NotRequired

from typing_extensions import TypedDict

from cowfs.results import Change, Checkpointed, Restored, SettingValue, Snapshot, StoreUsage, Workspace
from cowfs_daemon.ports import Mounted

ENCODED_AT_ONCE = 500
"""Shapes of a list. The encoder of JSON lets no other thread run while it works on one value."""


def listed(shapes: Iterable[Any]) -> bytes:
    """A list as JSON, for a thread beside others."""
    values = iter(shapes)
    parts = []
    while piece := list(islice(values, ENCODED_AT_ONCE)):
        parts.append(json.dumps(piece)[1:-1].encode())
    return b"[" + b", ".join(parts) + b"]"


class SnapshotShape(TypedDict):
    """A snapshot; ``root`` is hex, null until settled."""

    id: str
    workspace: str
    parent: str | None
    message: str
    labels: list[str]
    creator: str
    created_at: str
    automatic: bool
    state: str
    root: str | None
    settings: dict[str, int | bool | str]


class WorkspaceShape(TypedDict):
    """A workspace; ``path`` is null unless mounted; ``damage`` says why it is read-only, if it is."""

    id: str
    name: str
    head: str | None
    created_at: str
    mounted: bool
    path: str | None
    damage: str | None
    settings: dict[str, int | bool | str]


class CountShape(TypedDict):
    """How many files it was about."""

    count: int


class SettingShape(TypedDict):
    """A setting: its value (null when not set), that and its default as they are written."""

    key: str
    value: int | bool | str | None
    text: str | None
    default: str | None
    help: str


class SettingsShape(TypedDict):
    """Every setting that ``ref`` may have."""

    ref: str
    settings: list[SettingShape]


class CheckpointShape(TypedDict):
    """``changed`` is false when the head held everything already."""

    snapshot: SnapshotShape
    changed: bool


class HandleShape(TypedDict):
    """An open file that a restore affected."""

    ino: int
    writable: bool
    gone: bool


class RestoreShape(TypedDict):
    """``undo`` is the state before, null when none was kept."""

    snapshot: SnapshotShape
    undo: SnapshotShape | None
    changed_inodes: int
    handles: list[HandleShape]


class ChangeShape(TypedDict):
    """A difference; ``old_path`` only where renamed."""

    change: str
    path: str
    path_b64: NotRequired[str]
    old_path: NotRequired[str]
    old_path_b64: NotRequired[str]


class DiffShape(TypedDict):
    """The first differences; ``more``: there are others."""

    changes: list[ChangeShape]
    more: bool


class UsageShape(TypedDict):
    """What one workspace has alone."""

    name: str
    exclusive_bytes: int


class StoreShape(TypedDict):
    """What the store holds."""

    logical_bytes: int
    stored_bytes: int
    blocks: int
    segments: int
    journal_bytes: int
    shown_bytes: int
    workspaces: list[UsageShape]


class MountShape(TypedDict):
    """A mount."""

    ref: str
    path: str
    read_only: bool


class RestartShape(TypedDict):
    """What the daemon gives way to; ``keeper``: its pid and version when it goes on as that, too."""

    version: str
    keeper: dict[str, Any] | None


class FindingShape(TypedDict):
    """``kind`` is stable; ``affected`` lists the first of ``affected_count``: ``ws-1@good: usr/bin/git``."""

    where: str
    what: str
    kind: str
    affected: list[str]
    affected_count: int
    advice: str


class CheckShape(TypedDict):
    """What fsck found."""

    clean: bool
    findings: list[FindingShape]


def rfc3339(at_ns: int) -> str:
    """``at_ns`` since the epoch as RFC 3339 UTC with nine decimals."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns:09d}Z"


def path_fields(key: str, path: bytes) -> dict[str, Any]:
    """``{key: text}``, with ``KEY_b64`` too when ``path`` is not UTF-8."""
    try:
        return {key: path.decode()}
    except UnicodeDecodeError:
        return {key: path.decode(errors="replace"), key + "_b64": base64.b64encode(path).decode()}


def snapshot(value: Snapshot) -> SnapshotShape:
    """The JSON of a snapshot."""
    return {
        "id": value.id,
        "workspace": value.workspace,
        "parent": value.parent,
        "message": value.message,
        "labels": list(value.labels),
        "creator": value.creator,
        "created_at": rfc3339(value.created_at),
        "automatic": value.automatic,
        "state": value.state,
        "root": value.root,
        "settings": value.settings,
    }


def workspace(value: Workspace, path: str | None) -> WorkspaceShape:
    """``path``: where it is mounted, or None."""
    return {
        "id": value.id,
        "name": value.name,
        "head": value.head,
        "created_at": rfc3339(value.created_at),
        "mounted": path is not None,
        "path": path,
        "damage": value.damage,
        "settings": value.settings,
    }


def settings(ref: str, values: Sequence[SettingValue]) -> SettingsShape:
    """The JSON of settings."""
    found: list[SettingShape] = [
        {"key": each.key, "value": each.value, "text": each.text, "default": each.default, "help": each.help}
        for each in values
    ]
    return {"ref": ref, "settings": found}


def checkpointed(value: Checkpointed) -> CheckpointShape:
    """The JSON of a checkpoint."""
    return {"snapshot": snapshot(value.snapshot), "changed": value.changed}


def restored(value: Restored) -> RestoreShape:
    """The JSON of a restore."""
    return {
        "snapshot": snapshot(value.snapshot),
        "undo": None if value.undo is None else snapshot(value.undo),
        "changed_inodes": value.changed_inodes,
        "handles": [{"ino": each.ino, "writable": each.writable, "gone": each.gone} for each in value.handles],
    }


def change(value: Change) -> dict[str, Any]:
    """A ``ChangeShape``."""
    shape = {"change": value.change, **path_fields("path", value.path)}
    if value.old_path is not None:
        shape.update(path_fields("old_path", value.old_path))
    return shape


def store_usage(value: StoreUsage) -> StoreShape:
    """The JSON of the usage."""
    return {
        "logical_bytes": value.logical_bytes,
        "stored_bytes": value.stored_bytes,
        "blocks": value.blocks,
        "segments": value.segments,
        "journal_bytes": value.journal_bytes,
        "shown_bytes": value.shown_bytes,
        "workspaces": [{"name": each.name, "exclusive_bytes": each.exclusive_bytes} for each in value.workspaces],
    }


def mounted(value: Mounted) -> MountShape:
    """The JSON of a mount."""
    return {"ref": value.ref, "path": value.path, "read_only": value.read_only}


class TreeShape(TypedDict):
    """Snapshots point at their parents, workspaces at their heads."""

    workspaces: list[WorkspaceShape]
    snapshots: list[SnapshotShape]
