"""Which snapshots and workspaces go by a rule, and when. A rule removes a name; what forks need stays, unnamed.

For each workspace, of its own snapshots, newest first:

- automatic ones beyond ``retention.automatic`` go;
- others go when ``retention.last`` or ``retention.within`` is set and neither keeps them;
- what has a label or a pin, is a template or the head of a workspace, is what ``restore --undo`` goes back to, or is
  mounted, stays.

A workspace goes that has a ``ttl`` and was not used for so long. Whatever opens it uses it, and being mounted does all
the time. When it was used last is known to the interval at which :meth:`Retention.apply` is called.

``lock`` is the engine's, for the catalog: what a rule removes is chosen and removed in one step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from cowfs import settings
from cowfs.catalog.apply import UNDO
from cowfs.catalog.catalog import Catalog
from cowfs.configured import USED
from cowfs.errors import Busy, CowfsError, NotFound
from cowfs.formats.control import Set, SnapshotEntry, WorkspaceEntry
from cowfs.host import Host
from cowfs.results import Pruned

AT_ONCE = 200
"""Snapshots removed under one hold of the lock."""

NS = 1_000_000_000
_USE_SHARE = 16  # a use is written down when the one before is older than this part of the ttl


class Uses:
    """Workspaces that were used since the last look. Thread-safe: adding and swapping sets are single steps."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def touch(self, workspace: str) -> None:
        """The workspace of that id is used."""
        self._used.add(workspace)

    def taken(self) -> set[str]:
        """Those used since the last call."""
        used, self._used = self._used, set()
        return used

    def seen(self) -> set[str]:
        """The same, without forgetting them."""
        return set(self._used)


class Retention:
    """``remove_snapshots(ids)`` and ``remove_workspace(name)`` are the engine's; ``clock`` gives ns since the epoch."""

    def __init__(
        self, catalog: Catalog, lock: threading.RLock, host: Host, clock: Callable[[], int], uses: Uses,
        remove_snapshots: Callable[[Sequence[str]], list[str]], drop_unneeded: Callable[[], None],
        remove_workspace: Callable[[WorkspaceEntry], None],
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._lock = lock
        self._host = host
        self._clock = clock
        self._uses = uses
        self._remove_snapshots = remove_snapshots
        self._drop_unneeded = drop_unneeded
        self._remove_workspace = remove_workspace

    def plan(self) -> list[Pruned]:
        """What would go now, and why."""
        now, mounted = self._clock(), set(self._host.shown())
        with self._lock:
            entries = sorted(self._catalog.workspaces.values(), key=lambda entry: entry.name)
            spared = mounted | self._spared()
            expired = {each.id for each in self._expired(entries, now, self._uses.seen())}
            found = [self._expiry(entry) for entry in entries if entry.id in expired]
            for entry in entries:
                if entry.id not in expired:
                    found += self._old(entry, now, spared)
        return found

    def apply(self) -> list[Pruned]:
        """Remove what goes now; returns what has gone. Raises what the control log's writing does."""
        now, mounted = self._clock(), set(self._host.shown())
        gone = list(self._remove_expired(now))
        with self._lock:
            workspaces = list(self._catalog.workspaces)
        for workspace in workspaces:
            while pruned := self._remove_old(workspace, now, mounted):
                gone += pruned
        return gone

    # ---- snapshots -------------------------------------------------------------------------------

    def _remove_old(self, workspace: str, now: int, mounted: set[str]) -> list[Pruned]:
        with self._lock:
            entry = self._catalog.workspaces.get(workspace)
            if entry is None:
                return []
            going = self._old(entry, now, None, mounted)[:AT_ONCE]
            gone = set(self._remove_snapshots([each.id for each in going])) if going else set()
        if gone:
            self._drop_unneeded()
        return [each for each in going if each.id in gone]

    def _spared(self) -> set[str]:
        """Heads and what undo goes back to, of all workspaces."""
        spared = set()
        for entry in self._catalog.workspaces.values():
            undo = self._catalog.settings(entry.id).get(UNDO)
            spared |= {entry.head or "", undo.decode() if undo else ""}
        return spared

    def _old(
        self, entry: WorkspaceEntry, now: int, spared: set[str] | None, mounted: set[str] | None = None
    ) -> list[Pruned]:
        held = self._catalog.settings(entry.id)
        last, within = settings.number(held, "retention.last"), settings.number(held, "retention.within")
        automatic = settings.number(held, "retention.automatic") or 0
        own = self._catalog.snapshots_of(entry.id)
        if last is None and within is None and len(own) <= automatic:
            return []
        going = []
        for why, snapshot in _by_rule(own[::-1], last, within, automatic, now):
            if not self._catalog.labelled(snapshot.id) and not _pinned(self._catalog, snapshot.id):
                going.append(Pruned(settings.SNAPSHOT, snapshot.id, entry.name, why))
        if going and spared is None:
            spared = self._spared() | (mounted or set())
        return [each for each in going if each.id not in (spared or ())]

    # ---- workspaces ------------------------------------------------------------------------------

    def _expired(self, entries: Sequence[WorkspaceEntry], now: int, used: set[str]) -> Iterator[WorkspaceEntry]:
        for entry in entries:
            held = self._catalog.settings(entry.id)
            ttl = settings.number(held, "ttl")
            if ttl is not None and entry.id not in used and not _pinned(self._catalog, entry.id):
                last = int(held.get(USED, b"0"))
                if now - max(last, entry.created_at) > ttl * NS and not self._mounted(entry.id):
                    yield entry

    def _remove_expired(self, now: int) -> Iterator[Pruned]:
        used = self._uses.taken()
        with self._lock:
            entries = list(self._catalog.workspaces.values())
            limited = [entry for entry in entries if "ttl" in self._catalog.settings(entry.id)]
        used |= {entry.id for entry in limited if self._mounted(entry.id)}
        with self._lock:
            self._write_down(limited, now, used)
            expired = list(self._expired(limited, now, used))
        for entry in expired:
            pruned = self._expiry(entry)
            with suppress(Busy, NotFound):  # it is used again, or gone
                if entry.id not in self._uses.seen():
                    self._remove_workspace(entry)  # this one, whatever has its name by now
                    yield pruned

    def _write_down(self, limited: Sequence[WorkspaceEntry], now: int, used: set[str]) -> None:
        operations = []
        for entry in limited:
            held = self._catalog.settings(entry.id)
            ttl = settings.number(held, "ttl") or 0
            if entry.id in used and now - int(held.get(USED, b"0")) > ttl * NS // _USE_SHARE:
                operations.append(Set(entry.id, USED, str(now).encode()))
        operations = [each for each in operations if each.target in self._catalog.workspaces]
        if operations:
            self._catalog.commit(*operations, sync=False)

    def _mounted(self, workspace: str) -> bool:
        try:
            return self._host.serving(workspace)
        except CowfsError:
            return True  # its worker is being replaced: nobody knows

    def _expiry(self, entry: WorkspaceEntry) -> Pruned:
        ttl = settings.values(self._catalog.settings(entry.id)).get("ttl", 0)
        text = settings.show(settings.find("ttl", settings.WORKSPACE), ttl)
        return Pruned(settings.WORKSPACE, entry.id, entry.name, f"not used for longer than {text}")


def _pinned(catalog: Catalog, target: str) -> bool:
    held = settings.values(catalog.settings(target))
    return held.get("pin") is True or "template" in held


def _by_rule(
    newest_first: Sequence[SnapshotEntry], last: int | None, within: int | None, automatic: int, now: int
) -> Iterator[tuple[str, SnapshotEntry]]:
    """(why, snapshot) of what the rules let go of."""
    seen = {True: 0, False: 0}
    for snapshot in newest_first:
        seen[snapshot.automatic] += 1
        place = seen[snapshot.automatic]
        if snapshot.automatic:
            if place > automatic:
                yield f"automatic, and not among the newest {automatic}", snapshot
        elif last is not None or within is not None:
            young = within is not None and now - snapshot.created_at <= within * NS
            if not young and (last is None or place > last):
                reasons = [] if within is None else [f"older than {_duration(within)}"]
                reasons += [] if last is None else [f"not among the newest {last}"]
                yield " and ".join(reasons), snapshot


def _duration(seconds: int) -> str:
    return settings.show(settings.find("retention.within", settings.WORKSPACE), seconds)
