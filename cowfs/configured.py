"""What is set for workspaces and snapshots: the verb ``set``. The table of settings is :mod:`cowfs.settings`.

``lock`` is the engine's, for the catalog; the host is called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from cowfs import settings
from cowfs.catalog.catalog import Catalog
from cowfs.catalog.names import check_workspace_name
from cowfs.catalog.refs import TEMPLATE, Resolved, label_operations, resolve, templates
from cowfs.errors import Conflict, CowfsError, Invalid
from cowfs.formats import control
from cowfs.host import Host
from cowfs.keys import Keys
from cowfs.remembered import Request, Result
from cowfs.results import SettingValue

LABEL = "label"

USED = "used"
"""Kept for a workspace with a ttl: when it was last used, ns since the epoch."""


class Configured:
    """Reads and changes settings. ``clock`` gives ns since the epoch."""

    def __init__(
        self, catalog: Catalog, lock: threading.RLock, host: Host, clock: Callable[[], int], keys: Keys
    ) -> None:
        self._keys = keys
        self._catalog = catalog
        self._lock = lock
        self._host = host
        self._clock = clock

    def change(
        self,
        ref: str,
        changes: Mapping[str, str | None],
        move: bool,
        result: Callable[[Resolved], Result],
        request: Request | None,
    ) -> Resolved:
        """Set what is named, unset what is None or empty: all or nothing, durably. Returns what ``ref`` means.

        For a snapshot ``label`` gives it one more label (``move``: taken from another), or takes all away.
        ``result(what ref means)`` is kept for ``request``. Raises Invalid, NotFound, Conflict.
        """
        with self._lock:
            found = resolve(self._catalog, ref)
            target = settings.WORKSPACE if found.snapshot is None else settings.SNAPSHOT
            operations: list[control.Operation] = []
            for key, text in changes.items():
                if found.snapshot is not None and key == LABEL:
                    operations += self._labels(found.snapshot, text, move)
                else:
                    operations += self._setting(found, settings.find(key, target), text, move)
            kept = self._keys.of(request, lambda: result(found))
            if operations or kept is not None:
                self._catalog.commit(*operations, sync=True, then=kept)
            quota = settings.quota(self._catalog.settings(found.workspace.id))
        if found.snapshot is None and any(key.startswith("quota.") for key in changes):
            with suppress(CowfsError, OSError):  # a host that opens it from now on knows
                if self._host.is_open(found.workspace.id):
                    self._host.limit(found.workspace.id, quota)
        return found

    def _labels(self, snapshot: control.SnapshotEntry, label: str | None, move: bool) -> list[control.Operation]:
        if label:
            return list(label_operations(self._catalog, snapshot.workspace, label, snapshot.id, move=move))
        return [
            control.Labelled(snapshot.workspace, each, None)
            for each in self._catalog.labels_of(snapshot.id)
        ]  # fmt: skip

    def _setting(
        self, found: Resolved, setting: settings.Setting, text: str | None, move: bool
    ) -> list[control.Operation]:
        target = found.workspace.id if found.snapshot is None else found.snapshot.id
        value = settings.parse(setting, text) if text else None
        operations = [control.Set(target, setting.key, None if value is None else settings.encode(value))]
        if setting.key == TEMPLATE and isinstance(value, str):
            check_workspace_name(value)
            other = templates(self._catalog).get(value)
            if other is not None and other.id != target:
                if not move:
                    raise Conflict(f"{other.id} is the template {value}", hint="Take the name from it with --move.")
                operations.append(control.Set(other.id, TEMPLATE, None))
        if setting.key == "ttl":
            operations.append(control.Set(target, USED, None if value is None else str(self._clock()).encode()))
        return list(operations)

    def of(self, ref: str) -> list[SettingValue]:
        """Every setting that what ``ref`` names may have, set or not. Raises NotFound, Invalid."""
        with self._lock:
            found = resolve(self._catalog, ref)
            target = settings.WORKSPACE if found.snapshot is None else settings.SNAPSHOT
            held = settings.values(
                self._catalog.settings(found.workspace.id if found.snapshot is None else found.snapshot.id)
            )
        return [_shown(setting, held.get(setting.key)) for setting in settings.applicable(target)]

    def inherit(self, origin: str, forks: list[control.WorkspaceCreated]) -> list[control.Operation]:
        """What gives the forks of a workspace (an id) its settings, as far as forks have them from the start."""
        held = settings.inherited(self._catalog.settings(origin))
        return [control.Set(fork.id, key, value) for fork in forks for key, value in sorted(held.items())]


def _shown(setting: settings.Setting, value: settings.Value | None) -> SettingValue:
    default = setting.default
    return SettingValue(
        setting.key, value, None if value is None else settings.show(setting, value),
        None if default is None else settings.show(setting, default), setting.help,
    )  # fmt: skip


def as_texts(changes: Mapping[str, object]) -> dict[str, str | None]:
    """Values as a caller gives them (text, numbers, truth values, None) -> text. Raises Invalid."""
    texts: dict[str, str | None] = {}
    for key, value in changes.items():
        if isinstance(value, bool):
            texts[key] = "yes" if value else "no"
        elif isinstance(value, int):
            texts[key] = f"{value}s" if key in ("ttl", "retention.within") else str(value)
        elif value is None or isinstance(value, str):
            texts[key] = value
        else:
            raise Invalid(f"{key}: a {type(value).__name__} is no value of a setting", hint="Give text or a number.")
    return texts
