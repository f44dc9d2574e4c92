"""containerd's snapshots as workspaces.

Each of them, whatever its kind, is a workspace with a name of no meaning; everything that containerd knows of it (key,
kind, parent, labels, times) is the record that is noted with it, and the only state there is. So each change takes
effect in the one durable step that changes a record: a workspace without one is half made, and removed.

    active      a fork of its parent's snapshot, mounted for writing
    committed   the snapshot that ends an active one; its workspace is no longer mounted
    view        a snapshot of a fork, mounted read-only
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from cowfs.client.store import Store
from cowfs.errors import Busy, Conflict, Invalid, NotFound
from cowfs_cli.adapter import idle, record

PROGRAM: Final = "containerd"
PREFIX: Final = "containerd-"
KEY_CHARACTERS: Final = 1024
LABEL_BYTES: Final = 4096
"""Of a label's key and value together, as containerd has it."""

VIEW, ACTIVE, COMMITTED = "view", "active", "committed"
_OURS = re.compile(PREFIX + "[0-9a-f]{16}")
_COUNTED: Final = "2048P"
"""A quota that bounds nothing, but has the workspace tell what it holds (statvfs)."""


class Unfit(Conflict):
    """The snapshot is not of the kind, or not in the state, that the request needs."""


@dataclass(frozen=True)
class Info:
    """One snapshot. Times in ns since the epoch.

    ``workspace``: where it is kept; ``snapshot``: its id in cowfs, unless it is active; ``used``: bytes and inodes of
    everything in it, its parents' included, once it is committed.
    """

    key: str
    kind: str
    parent: str
    labels: dict[str, str]
    created: int
    updated: int
    workspace: str = ""
    snapshot: str = ""
    used: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Mount:
    """``source``: a path of this machine, to be bound."""

    source: str
    read_only: bool


class Snapshots:
    """The snapshots of one store. Thread-safe: one change at a time."""

    def __init__(self, store: Store, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self.cleanup()

    def prepare(self, key: str, parent: str, labels: dict[str, str], *, kind: str = ACTIVE) -> Mount:
        """Make an active snapshot, or a view, of the committed ``parent``; empty: of nothing.

        Raises Conflict when the key is taken, NotFound, Invalid when the parent is not committed.
        """
        _check(key, labels)
        with self._lock:
            known = self._all()
            if key in known:
                raise Conflict(f"the snapshot {key!a} exists already")
            start = known.get(parent)
            if parent and start is None:
                raise NotFound(f"there is no snapshot {parent!a}")
            if start is not None and start.kind != COMMITTED:
                raise Invalid(f"the parent {parent!a} is not committed")
            now = self._clock()
            made = Info(key, kind, parent, labels, now, now, f"{PREFIX}{secrets.token_hex(8)}")
            try:
                if start is None:
                    self._store.create(made.workspace).set({"quota.bytes": _COUNTED})
                else:
                    self._store.fork(start.snapshot, made.workspace)
                if kind == VIEW:
                    made = replace(made, snapshot=self._checkpoint(made, "a view"))
                self._write(made)
            except BaseException:
                with suppress(NotFound, Busy):
                    self._store.remove(made.workspace)
                raise
            return self._mount(made)

    def mounts(self, key: str) -> Mount:
        """Where an active snapshot or a view is; mounts it if need be. Raises NotFound; Unfit when it is committed."""
        with self._lock:
            info = self._find(key)
            if info.kind == COMMITTED:
                raise Unfit(f"the snapshot {key!a} is committed, so it has no mounts", hint="prepare or view it")
            return self._mount(info)

    def commit(self, name: str, key: str, labels: dict[str, str]) -> None:
        """Make the active snapshot ``key`` the committed one ``name``, durably: everything written before the call.

        Raises Conflict when the name is taken, NotFound; Unfit when it is not active.
        """
        _check(name, labels)
        with self._lock:
            known = self._all()
            info = self._find(key, known)
            if info.kind != ACTIVE:
                raise Unfit(f"the snapshot {key!a} is not active")
            if name in known:
                raise Conflict(f"the snapshot {name!a} exists already")
            used = self._used(info)
            snapshot = self._checkpoint(info, f"committed as {name}")
            now = self._clock()
            self._write(
                replace(info, key=name, kind=COMMITTED, labels=labels, created=now, updated=now, snapshot=snapshot,
                        used=used)
            )  # fmt: skip
            with suppress(Busy):  # it goes when the snapshot is removed; what is written until then is nobody's
                idle.umount(self._store, info.workspace)

    def remove(self, key: str) -> None:
        """Remove a snapshot. Raises NotFound; Unfit when it is another one's parent, Busy while it is in use."""
        with self._lock:
            known = self._all()
            info = self._find(key, known)
            if any(each.parent == key for each in known.values()):
                raise Unfit(f"the snapshot {key!a} is the parent of others", hint="remove these first")
            for ref in {info.workspace, info.snapshot} - {""}:
                idle.umount(self._store, ref)
            idle.patiently(lambda: self._store.remove(info.workspace))

    def stat(self, key: str) -> Info:
        """One snapshot. Raises NotFound."""
        return self._find(key)

    def all(self) -> list[Info]:
        """Every snapshot, oldest first."""
        return sorted(self._all().values(), key=lambda info: (info.created, info.key))

    def update(self, key: str, labels: dict[str, str], fields: list[str]) -> Info:
        """Change labels: all of them, or those that ``fields`` names (``labels.KEY``). Raises NotFound, Invalid."""
        other = [each for each in fields if each != "labels" and not each.startswith("labels.")]
        if other:
            raise Invalid(f"{other[0][:80]!a} of a snapshot cannot be changed", hint="labels can")
        with self._lock:
            info = self._find(key)
            changed = labels
            if fields and "labels" not in fields:
                named = {each.removeprefix("labels.") for each in fields}
                changed = {name: text for name, text in info.labels.items() if name not in named}
                changed |= {name: text for name, text in labels.items() if name in named}
            _check(key, changed)
            info = replace(info, labels=changed, updated=self._clock())
            self._write(info)
            return info

    def usage(self, key: str) -> tuple[int, int]:
        """(bytes, inodes) that a snapshot holds beyond its parent. Raises NotFound."""
        with self._lock:
            known = self._all()
            info = self._find(key, known)
            if info.kind == VIEW:
                return 0, 0
            parent = known.get(info.parent)
            below = parent.used if parent is not None else (0, 0)
            size, inodes = info.used if info.kind == COMMITTED else self._used(info)
            return max(size - below[0], 0), max(inodes - below[1], 0)

    def cleanup(self) -> None:
        """Remove what a killed snapshotter has left half made."""
        with self._lock:
            for workspace in self._store.workspaces():
                if _OURS.fullmatch(workspace.name) and record.SETTING not in workspace.settings:
                    with suppress(NotFound, Busy):
                        self._store.remove(workspace.name)

    def _all(self) -> dict[str, Info]:
        """What is noted, by key. One request, whatever the number."""
        found = {}
        for workspace in self._store.workspaces():
            with suppress(Conflict):
                noted = record.read(workspace, PROGRAM)
                if noted is not None:
                    info = _info(noted, workspace.name)
                    found[info.key] = info
        return found

    def _find(self, key: str, known: dict[str, Info] | None = None) -> Info:
        info = (self._all() if known is None else known).get(key)
        if info is None:
            raise NotFound(f"there is no snapshot {key[:KEY_CHARACTERS]!a}")
        return info

    def _write(self, info: Info) -> None:
        noted = asdict(info)
        del noted["workspace"]
        record.write(self._store, info.workspace, PROGRAM, noted)

    def _checkpoint(self, info: Info, message: str) -> str:
        made = self._store.workspace(info.workspace).checkpoint(message, allow_empty=True, creator=PROGRAM)
        return made.snapshot.id

    def _mount(self, info: Info) -> Mount:
        return Mount(self._store.mount(info.snapshot or info.workspace), info.kind == VIEW)

    def _used(self, info: Info) -> tuple[int, int]:
        """(bytes, inodes) of everything in an active snapshot, as its mount tells."""
        told = os.statvfs(self._store.mount(info.workspace))
        return (told.f_blocks - told.f_bfree) * told.f_frsize, told.f_files - told.f_ffree


def _info(noted: dict[str, Any], workspace: str) -> Info:
    """What was noted. Raises Conflict for what this program has not written."""
    try:
        size, inodes = noted["used"]
        return Info(
            str(noted["key"]), str(noted["kind"]), str(noted["parent"]),
            {str(key): str(value) for key, value in noted["labels"].items()},
            int(noted["created"]), int(noted["updated"]), workspace, str(noted["snapshot"]), (int(size), int(inodes)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Conflict(f"what is noted of {workspace} makes no sense", hint=f"see cowfs set {workspace}") from None


def _check(key: str, labels: dict[str, str]) -> None:
    if not 0 < len(key) <= KEY_CHARACTERS:
        raise Invalid(f"a snapshot's key has 1 to {KEY_CHARACTERS} characters")
    for name, text in labels.items():
        if len((name + text).encode()) > LABEL_BYTES:
            raise Invalid(f"the label {name[:80]!a} is too long", hint=f"at most {LABEL_BYTES} bytes with its value")
