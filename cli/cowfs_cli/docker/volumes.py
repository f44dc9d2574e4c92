"""Workspaces as the volumes of Docker.

Any workspace can be mounted and is listed; only those that were made here are removed. Who uses one, by container, is
noted with the workspace, so that the plugin can be started again at any time.
"""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cowfs.client.store import Store
from cowfs.errors import Busy, Conflict, Invalid
from cowfs.results import Workspace
from cowfs_cli.adapter import idle, record

PROGRAM: Final = "docker"
OPTIONS: Final = ("from", "template")
USERS_MAX: Final = 1000
"""Containers that use one volume at once, at most."""

REF_CHARACTERS: Final = 600
_NAME = re.compile(r"(?!snap-)[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_LOCKS: Final = 64


@dataclass(frozen=True)
class Volume:
    """``path``: where it is mounted, empty when it is not. ``made``: by this plugin; ``users``: containers."""

    name: str
    path: str
    created_at: int
    made: bool
    users: int


class Volumes:
    """The volumes of one store. Thread-safe: requests for one volume wait for each other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def create(self, name: str, options: dict[str, str]) -> None:
        """Make a volume: empty, or a fork of ``from`` (any reference) or of the template ``template``.

        Raises Invalid for a name or options that make no sense, Conflict when the name is taken, NotFound.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise Invalid(f"unknown option {unknown[0][:80]!a}", hint=f"there are: {', '.join(OPTIONS)}")
        if len(options) > 1:
            raise Invalid("a volume begins as from= or as template= says, not as both")
        if any(not 0 < len(ref) <= REF_CHARACTERS for ref in options.values()):
            raise Invalid(f"an option's value has 1 to {REF_CHARACTERS} characters")
        with self._lock(name):
            if options:
                self._store.fork(options.get("from") or f"template:{options['template']}", name)
            else:
                self._store.create(name)
            try:
                self._note(name, True, [])
            except BaseException:
                self._store.remove(name)
                raise

    def remove(self, name: str) -> None:
        """Remove a volume that was made here, with its snapshots.

        Raises Conflict for any other workspace, Busy while containers or programs use it, NotFound.
        """
        with self._lock(name):
            made, users = self._noted(self._info(name))
            if not made:
                raise Conflict(
                    f"the workspace {name} was not made by Docker, so it is not removed by it",
                    hint=f"if nobody needs it: cowfs rm {name}",
                )
            if users:
                raise Busy(f"{name} is in use by {len(users)} containers", hint="remove them first")
            idle.umount(self._store, name)
            self._store.remove(name)

    def mount(self, name: str, user: str) -> str:
        """Mount it for a container; the path. Again for the same one: nothing more happens."""
        with self._lock(name):
            made, users = self._noted(self._info(name))
            path = self._store.mount(name)
            if _short(user) not in users:
                if len(users) >= USERS_MAX:
                    raise Busy(f"{name} is in use by {USERS_MAX} containers", hint="remove some of them first")
                self._note(name, made, [*users, _short(user)])
            return path

    def unmount(self, name: str, user: str) -> None:
        """A container needs it no more; with the last one it is unmounted, unless something else uses it still."""
        with self._lock(name):
            made, users = self._noted(self._info(name))
            if _short(user) not in users:
                return
            users.remove(_short(user))
            if not users:
                with suppress(Busy):
                    idle.umount(self._store, name)
            self._note(name, made, users)

    def get(self, name: str) -> Volume:
        """One volume. Raises NotFound; Conflict when another adapter manages the workspace."""
        _check(name)
        return self._volume(self._info(name))

    def all(self) -> list[Volume]:
        """Every workspace that can be a volume."""
        found = []
        for workspace in self._store.workspaces():
            with suppress(Conflict):
                found.append(self._volume(workspace))
        return found

    def _info(self, name: str) -> Workspace:
        return self._store.workspace(name).info()

    def _volume(self, workspace: Workspace) -> Volume:
        made, users = self._noted(workspace)
        return Volume(workspace.name, workspace.path or "", workspace.created_at, made, len(users))

    def _lock(self, name: str) -> threading.Lock:
        return self._locks[hash(_check(name)) % _LOCKS]

    def _noted(self, workspace: Workspace) -> tuple[bool, list[str]]:
        """(made here, users). Containers of before the machine's start are gone."""
        noted: dict[str, Any] = record.read(workspace, PROGRAM) or {}
        users = noted.get("users", []) if noted.get("boot") == self._boot else []
        return noted.get("made") is True, [str(each) for each in users]

    def _note(self, name: str, made: bool, users: list[str]) -> None:
        value = {"made": made, "boot": self._boot, "users": users}
        record.write(self._store, name, PROGRAM, value if made or users else None)


def _check(name: str) -> str:
    """``name``, when it can be a workspace's and nothing else's: no reference to a snapshot. Raises Invalid."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"malformed volume name {name[:80]!a}", hint="letters, digits and ._-, not beginning with - or .")
    return name


def _short(user: str) -> str:
    """What is noted of a container's id, whatever it looks like."""
    return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()[:16]
