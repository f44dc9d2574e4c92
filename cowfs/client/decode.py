"""JSON of the wire -> the frozen records of cowfs.results."""

import base64
from datetime import UTC, datetime
from typing import Any

from cowfs.results import (
    Change,
    Checkpointed,
    Collected,
    Handle,
    Pruned,
    Restored,
    SettingValue,
    Snapshot,
    StoreUsage,
    Workspace,
    WorkspaceUsage,
)


def time_ns(text: str) -> int:
    """ns since the epoch of an RFC 3339 time in UTC with up to nine decimals."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def path_bytes(value: dict[str, Any], key: str = "path") -> bytes:
    """The bytes of a path: ``KEY_b64`` where it is given, else ``KEY`` as UTF-8."""
    encoded = value.get(key + "_b64")
    return base64.b64decode(encoded) if encoded is not None else str(value[key]).encode()


def snapshot(value: dict[str, Any]) -> Snapshot:
    """A SnapshotShape."""
    return Snapshot(
        id=value["id"],
        workspace=value["workspace"],
        parent=value["parent"],
        message=value["message"],
        labels=tuple(value["labels"]),
        creator=value["creator"],
        created_at=time_ns(value["created_at"]),
        automatic=value["automatic"],
        state=value["state"],
        root=value["root"],
        settings=value["settings"],
    )


def workspace(value: dict[str, Any]) -> Workspace:
    """A WorkspaceShape."""
    return Workspace(
        id=value["id"],
        name=value["name"],
        head=value["head"],
        created_at=time_ns(value["created_at"]),
        mounted=value["mounted"],
        path=value["path"],
        damage=value["damage"],
        settings=value["settings"],
    )


def settings(value: dict[str, Any]) -> list[SettingValue]:
    """A SettingsShape."""
    return [SettingValue(**each) for each in value["settings"]]


def collected(value: dict[str, Any]) -> Collected:
    """The last line of a collection."""
    return Collected(**{**value, "pruned": tuple(Pruned(**each) for each in value["pruned"])})


def checkpointed(value: dict[str, Any]) -> Checkpointed:
    """A CheckpointShape."""
    return Checkpointed(snapshot(value["snapshot"]), value["changed"])


def restored(value: dict[str, Any]) -> Restored:
    """A RestoreShape."""
    undo = value["undo"]
    handles = tuple(Handle(each["ino"], each["writable"], each["gone"]) for each in value["handles"])
    return Restored(snapshot(value["snapshot"]), undo and snapshot(undo), value["changed_inodes"], handles)


def change(value: dict[str, Any]) -> Change:
    """A ChangeShape."""
    old = path_bytes(value, "old_path") if "old_path" in value else None
    return Change(value["change"], path_bytes(value), old)


def store_usage(value: dict[str, Any]) -> StoreUsage:
    """A StoreShape."""
    return StoreUsage(
        logical_bytes=value["logical_bytes"],
        stored_bytes=value["stored_bytes"],
        blocks=value["blocks"],
        segments=value["segments"],
        journal_bytes=value["journal_bytes"],
        shown_bytes=value.get("shown_bytes", 0),
        workspaces=tuple(WorkspaceUsage(each["name"], each["exclusive_bytes"]) for each in value["workspaces"]),
    )
