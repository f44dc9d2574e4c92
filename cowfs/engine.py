"""The owner of a store: every verb, on top of the catalog, the block index, the settler and a host.

Locks, in this order: one verb lock per workspace (checkpoint, restore, fork, remove of that workspace);
``_lock`` for the catalog and what derives from it. The host is never called while ``_lock`` is held,
except to open a workspace. The engine has no threads of its own: whoever owns it calls
:meth:`settle_next` in the background.
"""

from __future__ import annotations

import builtins
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cowfs import usage
from cowfs.blocks.reader import BlockReader
from cowfs.branches import Branches
from cowfs.catalog.apply import UNDO
from cowfs.catalog.catalog import Catalog
from cowfs.catalog.names import check_new_name, check_texts, fork_names
from cowfs.catalog.refs import Resolved, label_operations, line_of, resolve, resolve_snapshot
from cowfs.checking import Checking
from cowfs.collector import THOROUGH_SHARE, Collector
from cowfs.configured import Configured, as_texts
from cowfs.errors import Conflict, Corrupt, CowfsError, NotFound
from cowfs.formats import control
from cowfs.formats.superblock import Superblock
from cowfs.fsck.problem import Problem
from cowfs.geometry import DIRECTORY_BLOCKS, SECTOR, Geometry
from cowfs.host import Chain, Host, Point
from cowfs.images import IMPORT_LIMIT_BYTES, Images
from cowfs.indexing import open_index
from cowfs.jobs import Jobs
from cowfs.keys import Entries, Keys, snapshot_result
from cowfs.lineage import Targets, chain
from cowfs.looking import Looking
from cowfs.paths import Paths
from cowfs.quarantine import Quarantine
from cowfs.remembered import Imported, Removed, Request
from cowfs.removing import Removing
from cowfs.reserve import Reserve
from cowfs.results import Change, Checkpointed, Collected, Restored, SettingValue, Snapshot, StoreUsage, Workspace
from cowfs.retention import Retention, Uses
from cowfs.scrubbing import Scrubber
from cowfs.settings import values
from cowfs.settle.delta import SettledLayer
from cowfs.settling import Settling
from cowfs.store import StoreDirectory
from cowfs.trimming import Trimming
from cowfs.workspace import CheckpointOrder, Env

Clock = Callable[[], int]
Ids = Callable[[str], str]
Progress = Callable[[dict[str, Any]], None]

PROBLEMS_KEPT = 1_000
"""Lines about problems of an import that are given again when it is asked for again."""


class Engine:
    """One open store. ``clock`` gives ns since the epoch, ``ids(prefix)`` a new id never given out before."""

    def __init__(
        self, store: StoreDirectory, clock: Clock, ids: Ids, host: Callable[[Env], Host] | None = None
    ) -> None:
        self.store = store
        self._clock = clock
        self._ids = ids
        self._lock = threading.RLock()
        self._verbs: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._targets, self._uses = Targets(), Uses()
        self.reserve = Reserve(store.path)
        self._parts = self.reserve.enough(lambda: self._opened(store, host))

    def _opened(self, store: StoreDirectory, host: Callable[[Env], Host] | None) -> ExitStack:
        with ExitStack() as undo:
            self._owner = store.lock()
            undo.callback(store.unlock, self._owner)
            self._start(store, undo, host)
            return undo.pop_all()

    def _start(self, store: StoreDirectory, undo: ExitStack, host: Callable[[Env], Host] | None) -> None:
        """Open every part; ``undo`` closes again what was opened when a later part fails."""
        store.sweep_tmp()
        geometry = store.superblock.geometry
        self.catalog = Catalog.open(store.control, relieve=lambda: self.reserve.relieve(vital=True))
        undo.callback(self.catalog.close)
        self.index, self.reindexed = open_index(store.index, store.segments, self.catalog.roots())
        undo.callback(self.index.close)
        self.blocks = BlockReader(self.index, store.segments)
        undo.callback(self.blocks.close)
        self.jobs = Jobs(store, self.index, geometry, self.reserve)
        undo.callback(self.jobs.close)
        self.settler, self._leases = self.jobs.settler, self.jobs.leases
        env = Env(self.blocks, geometry, store.journals, self._clock, self.reserve)
        self.host = Host(env) if host is None else host(env)
        self._trimming = Trimming(self.catalog, self._lock, store.journals)
        self.keys = Keys(self.catalog, self._lock, self._clock)
        self._branches = Branches(
            self.catalog, self._lock, self.host, self._trimming, self._targets, self.keys, self._uses
        )
        self._settling = Settling(
            self.catalog, self._lock, self._settle, self.host,
            self._trimming, store.journals, self._clock, self._leases,
        )  # fmt: skip
        self.collector = Collector(
            store, self.catalog, self._lock, self.index, self.blocks, self.host, self.jobs, self.reserve
        )
        self.images = Images(
            store, self.catalog, self._lock, self.jobs, self.reserve, self.collector, self._settling.next
        )
        self._removing = Removing(
            self.catalog, self._lock, self.host, self._branches, self._trimming, self._targets, self.collector
        )
        self.paths = Paths(self.host, self.open_workspace, self._verbs, self._ids)
        self.scrubber = Scrubber(store.path, store.segments, self._clock)
        self._checking = Checking(store, self.catalog, self._lock, self.index, self._trimming, self.collector)
        self._configured = Configured(self.catalog, self._lock, self.host, self._clock, self.keys)
        self.retention = Retention(
            self.catalog, self._lock, self.host, self._clock, self._uses, self._removing.snapshots,
            self._removing.drop_unneeded, self._remove_whole,
        )  # fmt: skip
        self._looking = Looking(self.catalog, self._lock, self.host, self._trimming, self._branches.ready, self._freeze)
        self._branches.catch_up(store.journals, Quarantine(store.path))
        with suppress(CowfsError, OSError):  # a full disk: the next verb that removes something does it
            self._removing.drop_unneeded()  # what a removal that was killed had left

    @classmethod
    def create_store(cls, path: Path, clock: Clock, store_id: bytes, geometry: Geometry | None = None) -> None:
        """Make an empty store; ``store_id`` is 16 random bytes. Raises Conflict, Invalid, NoSpace."""
        StoreDirectory.create(path, Superblock(store_id=store_id, created_at=clock(), geometry=geometry or Geometry()))

    @classmethod
    def open(cls, path: Path, clock: Clock, ids: Ids, host: Callable[[Env], Host] | None = None) -> Engine:
        """Become the owner of a store. Raises NotFound, Busy, Corrupt."""
        return cls(StoreDirectory.open(path), clock, ids, host)

    def close(self) -> None:
        """Let go of everything, also when a part raises OSError; what was answered is in the journals."""
        with self._parts:
            for workspace in self.host.opened():
                self._parts.callback(self.host.close, workspace)

    def _settle(self, parent_root: bytes, spans: Sequence[tuple[str, int, int]]) -> SettledLayer:
        """:meth:`Settler.settle`, if there is room for as much as the layer's journals take. Raises NoSpace."""
        self.reserve.refuse_without(sum(end - start for _, start, end in spans))
        return self.settler.settle(parent_root, spans)

    # ---- workspaces in the host ------------------------------------------------------------------

    def _chain(self, layer: str) -> Chain:
        return chain(self.catalog, layer)

    def open_workspace(self, name: str) -> str:
        """Let the host serve a workspace; returns its id. Raises NotFound."""
        return self._branches.ready(name).id

    # ---- verbs: ``request`` keeps the result for one that comes again under its key (cowfs.keys) -----------

    def create(self, name: str, request: Request | None = None) -> Workspace:
        """An empty workspace: a root directory, mode 0755. Raises Invalid, Conflict."""
        self._refuse_taken([check_new_name(name)])
        with self._leases.publishing():
            root = self.settler.make_root(0o40755, 0, 0, self._clock())
            kept = self.keys.of(request, lambda: self.workspace(name))
            return self.adopt(name, root, 2, DIRECTORY_BLOCKS * SECTOR, 1, kept)

    def import_tree(
        self, source: bytes, name: str, exclude: Sequence[str], progress: Progress, request: Request | None = None,
        limit: int = IMPORT_LIMIT_BYTES, ttl: int | None = None,
    ) -> Workspace:  # fmt: skip
        """A workspace with the tree of ``source``: see :meth:`Images.bring`. Raises also Conflict.

        ``ttl``: what it has as that setting from the start, in seconds.
        """
        self._refuse_taken([check_new_name(name)])
        with self.jobs.import_leases.publishing(), ExitStack() as held:
            brought = self.images.bring(source, exclude, limit, progress, held)
            problems = tuple(brought.problems[:PROBLEMS_KEPT])
            kept = self.keys.of(request, lambda: Imported(self.workspace(name), problems))
            operations = self.images.operations(brought, name, self._ids, self._clock(), ttl)
            self._branches.commit(*operations, sync=True, then=kept)
            return self.workspace(name)

    def export(self, ref: str, target: bytes, progress: Progress) -> builtins.list[str]:
        """Write an archive of a snapshot, or of a workspace as it is now: see :meth:`Images.export`."""
        snapshot = self._snapshot_of(ref)[1]
        with self._lock:
            found = self.catalog.snapshot(snapshot)
        return self.images.export(found, target, progress)

    def _refuse_taken(self, names: Sequence[str]) -> None:
        with self._lock:
            for name in names:
                if self.catalog.has_name(name):
                    raise Conflict(f"a workspace named {name} exists", hint="Choose another name, or remove it.")

    def adopt(
        self, name: str, root: bytes, next_ino: int, logical: int, inodes: int, kept: Entries | None = None
    ) -> Workspace:
        """A new workspace whose base is a root that is stored already. Raises Invalid, Conflict."""
        layer, workspace, live = self._ids("lay"), self._ids("wsp"), self._ids("lay")
        self._branches.commit(
            control.LayerImported(layer, None, root, next_ino, logical, inodes),
            control.WorkspaceCreated(workspace, name, self._clock(), live, layer, None, None, None, next_ino),
            sync=True, then=kept,
        )  # fmt: skip
        return self.workspace(name)

    def checkpoint(
        self, ws: str, message: str, label: str | None = None, allow_empty: bool = False, creator: str = "",
        move: bool = False, request: Request | None = None, automatic: bool = False,
    ) -> Checkpointed:  # fmt: skip
        """Snapshot a workspace, durably. With nothing changed the head is returned, the label added to it.

        Raises NotFound, Invalid, Conflict (the label is taken and not to be moved), NoSpace.
        """
        check_texts(message=message, creator=creator)
        entry = self._branches.ready(ws)
        with self._verbs[entry.id]:
            entry, known = self._branches.begin(ws, request)
            if isinstance(known, Checkpointed):
                return known
            with self._lock:
                if label is not None:
                    label_operations(self.catalog, entry.id, label, None, move=move)
                fresh = allow_empty or self.catalog.workspace(entry.id).head is None
            labels = () if label is None else (label,)
            order = CheckpointOrder(
                self._ids("snap"), self._ids("lay"), message, labels, creator, automatic, fresh, request
            )
            done = self.host.checkpoint(entry.id, order)
            self._branches.take(entry.id, done.operations)
            self._targets.arrived(entry.id)
            if done.snapshot is not None:
                return Checkpointed(self.snapshot(done.snapshot), True)
            with self._lock:
                head = self._head(entry.id)
                added = () if label is None else label_operations(self.catalog, entry.id, label, head, move=move)
                kept = self.keys.of(request, lambda: Checkpointed(self.snapshot(head), False))
                self._branches.commit(*added, sync=True, then=kept)
                return Checkpointed(self.snapshot(head), False)

    def _head(self, workspace: str) -> str:
        head = self.catalog.workspace(workspace).head
        if head is None:
            raise Corrupt(f"workspace {workspace} has no head after a checkpoint")
        return head

    def _automatic(self, message: str, fresh: bool) -> CheckpointOrder:
        return CheckpointOrder(self._ids("snap"), self._ids("lay"), message, (), "cowfs", True, fresh)

    def restore(
        self, ws: str, ref: str, discard: bool = False, force: bool = False, request: Request | None = None
    ) -> Restored:
        """Make a workspace exactly what a snapshot of its own line is. Causes no inotify events.

        Raises NotFound, Conflict (a snapshot of another line), Busy (a mount would be detached).
        """
        entry = self._branches.ready(ws)
        with self._verbs[entry.id], self._trimming.holding():
            entry, known = self._branches.begin(ws, request)
            if isinstance(known, Restored):
                return known
            with self._lock:
                found = resolve_snapshot(self.catalog, ref, entry.name)
                if not self.catalog.in_line(entry.id, found):
                    raise Conflict(
                        f"{ref} is not in the line of {ws}", hint=f"Fork it instead: cowfs fork {found.id} NAME"
                    )
                chain = self._chain(found.layer)
                fresh = self.catalog.workspace(entry.id).head is None
                disk = self.catalog.settings(entry.id).get("disk", b"")
                self._targets.add(found.id, entry.id)
            undo = None if discard else self._automatic(f"before the restore of {found.id}", fresh)
            try:
                done = self.host.restore(entry.id, found.id, chain, self._ids("lay"), undo, force, request, disk)
            except CowfsError:
                if self.host.is_open(entry.id):
                    self._targets.arrived(entry.id)  # it was refused; any other failure may have come after the marker
                raise
            self._branches.take(entry.id, done.operations, done.handles)
            self._targets.arrived(entry.id)
            undone = self.snapshot(done.snapshot) if done.snapshot is not None else None
            return Restored(self.snapshot(found.id), undone, done.changed, done.handles)

    def undo(self, ws: str, request: Request | None = None) -> Restored:
        """Take back the last restore (which can be taken back in turn). Raises NotFound."""
        entry, known = self._branches.begin(ws, request)
        if isinstance(known, Restored):
            return known
        with self._lock:
            value = self.catalog.settings(entry.id).get(UNDO)
        if value is None:
            raise NotFound(f"{ws} has no restore to take back")
        return self.restore(ws, value.decode(), request=request)

    def fork(
        self, ref: str, name: str, count: int | None = None, request: Request | None = None
    ) -> builtins.list[Workspace]:
        """New workspaces that begin as ``ref`` is, all or none. Raises NotFound, Invalid, Conflict."""
        names = fork_names(name, count)
        self._refuse_taken(names)
        origin, snapshot = self._snapshot_of(ref)
        with self._lock:
            found = self.catalog.snapshot(snapshot)
            layer = self.catalog.layer(found.layer)
            now = self._clock()
            created = [
                control.WorkspaceCreated(
                    self._ids("wsp"), each, now, self._ids("lay"), layer.id, found.id, origin, found.id, layer.next_ino
                )
                for each in names
            ]
            self._branches.commit(
                *created, *self._configured.inherit(origin, created), sync=True,
                then=self.keys.of(request, lambda: tuple(map(self.workspace, names))),
            )  # fmt: skip
        return [self.workspace(each) for each in names]

    def _snapshot_of(self, ref: str) -> tuple[str, str]:
        """(workspace id, snapshot id) of a reference; a changed live workspace is snapshotted first."""
        with self._lock:
            found = resolve(self.catalog, ref)
        if found.snapshot is not None:
            return found.snapshot.workspace, found.snapshot.id
        entry = self._branches.ready(found.workspace.name)
        with self._verbs[entry.id]:
            done = self.host.checkpoint(entry.id, self._automatic(f"fork of {entry.name}", entry.head is None))
            self._branches.take(entry.id, done.operations)
            with self._lock:
                return entry.id, done.snapshot or self._head(entry.id)

    def diff(self, a: str, b: str, limit: int | None = None) -> builtins.list[Change]:
        """What differs between two references, by path, the first ``limit`` of it. Raises NotFound, Invalid."""
        return self._looking.diff(a, b, limit)

    def show(self, ref: str, path: bytes) -> Iterator[bytes]:
        """The bytes of one file of a workspace or snapshot, in pieces. Raises NotFound, Invalid."""
        return self._looking.show(ref, path)

    def look(self, ref: str) -> AbstractContextManager[tuple[str, Point]]:
        """(id, point) of a reference: a workspace, which the host then serves, or a snapshot, readable within it."""
        return self._looking.look(ref)

    def move(self, workspace: str, release: Callable[[], None]) -> bool:
        """Let the host serve a workspace (an id) anew, elsewhere, after ``release()`` has made it let go.

        False, and nothing is done, when it is gone, or stands on layers that others hold in memory.
        """
        with self._verbs[workspace]:
            with self._lock:
                entry = self.catalog.workspaces.get(workspace)
                if entry is None or self.catalog.layer(entry.parent_layer).root is None:
                    return False
            release()
            self._branches.open(self.catalog.workspace(workspace))
            return True

    def label(self, ref: str, label: str, move: bool = False, request: Request | None = None) -> Snapshot:
        """Give a snapshot one more name. Raises Conflict when it is taken and not to be moved."""
        with self._lock:
            owner = resolve_snapshot(self.catalog, ref).workspace
        with self._verbs[owner], self._lock:  # not while a checkpoint is to have the label
            found = resolve_snapshot(self.catalog, ref)
            added = label_operations(self.catalog, found.workspace, label, found.id, move=move)
            kept = self.keys.of(request, lambda: snapshot_result(self.catalog, found))
            self._branches.commit(*added, sync=True, then=kept)
            return snapshot_result(self.catalog, found)

    def set(
        self, ref: str, changes: Mapping[str, object], move: bool = False, request: Request | None = None
    ) -> Workspace | Snapshot:
        """Change settings of a workspace or snapshot (:mod:`cowfs.settings`), all or none; None or "" unsets.

        ``label`` of a snapshot gives it one more. Raises NotFound, Invalid, Conflict (a taken label, not to ``move``).
        """
        found = self._configured.change(ref, as_texts(changes), move, self._shown, request)
        if found.snapshot is None:
            self._uses.touch(found.workspace.id)
        return self._shown(found)

    def _shown(self, found: Resolved) -> Workspace | Snapshot:
        if found.snapshot is None:
            return self._workspace(found.workspace)
        return snapshot_result(self.catalog, found.snapshot)

    def settings(self, ref: str) -> tuple[SettingValue, ...]:
        """Every setting ``ref`` may have. Raises NotFound, Invalid."""
        return tuple(self._configured.of(ref))

    def rename(self, ws: str, name: str, request: Request | None = None) -> Workspace:
        """Give a workspace another name. Raises NotFound, Invalid, Conflict."""
        check_new_name(name)
        entry = self._branches.by_name(ws)
        kept = self.keys.of(request, lambda: self.workspace(name))
        self._branches.commit(control.Renamed(entry.id, name), sync=True, then=kept)
        return self.workspace(name)

    def remove(self, ref: str, force: bool = False, request: Request | None = None) -> None:
        """Remove a workspace with its snapshots, or one snapshot; what forks need stays. Raises Busy, NotFound."""
        kept = self.keys.of(request, Removed)
        with self._lock:
            found = resolve(self.catalog, ref)
        if found.snapshot is not None:
            self._removing.snapshot(found.snapshot.id, kept)
        else:
            self._remove_whole(found.workspace, force, kept)

    def _remove_whole(self, entry: control.WorkspaceEntry, force: bool = False, kept: Entries | None = None) -> None:
        with self._verbs[entry.id]:
            self._removing.workspace(entry, force, kept)
            self._verbs.pop(entry.id, None)
        self._removing.drop_unneeded()
        self._trimming.trim(entry.id)

    # ---- looking ---------------------------------------------------------------------------------

    def workspace(self, name: str) -> Workspace:
        """One workspace by name. Raises NotFound."""
        return self._workspace(self._branches.by_name(name))

    def list(self) -> builtins.list[Workspace]:
        """Every workspace, by name."""
        with self._lock:
            entries = sorted(self.catalog.workspaces.values(), key=lambda entry: entry.name)
        return [self._workspace(entry) for entry in entries]

    def _workspace(self, entry: control.WorkspaceEntry) -> Workspace:
        held = values(self.catalog.settings(entry.id))
        damage = self._branches.damage(entry.id)
        return Workspace(entry.id, entry.name, entry.head, entry.created_at, damage=damage, settings=held)

    def snapshot(self, ref: str) -> Snapshot:
        """One snapshot. Raises NotFound, Invalid."""
        with self._lock:
            return snapshot_result(self.catalog, resolve_snapshot(self.catalog, ref))

    def log(self, ws: str) -> builtins.list[Snapshot]:
        """The snapshots of a workspace's own line, newest first. Raises NotFound."""
        with self._lock:
            line = line_of(self.catalog, self.catalog.by_name(ws).id)
            return [snapshot_result(self.catalog, entry) for entry in line]

    def stat(self) -> StoreUsage:
        """What the store holds and what each workspace alone keeps on disk."""
        return usage.measure(self.store, self.catalog, self.index, self.blocks)

    def fsck(self, deep: bool = False) -> Sequence[Problem]:
        """Check every invariant; empty when all is well. See :meth:`Checking.check`."""
        return self._checking.check(deep)

    def collect(self, dry_run: bool, progress: Progress, prune: bool = False) -> Collected:
        """Remove blocks that nothing needs, thoroughly; see :meth:`Collector.collect`.

        ``prune``: apply the rules of retention before (with ``dry_run``: only say what they would remove).
        """
        pruned = () if not prune else self.retention.plan() if dry_run else self.retention.apply()
        return replace(self.collector.collect(dry_run, progress, THOROUGH_SHARE), pruned=tuple(pruned))

    # ---- settling --------------------------------------------------------------------------------

    def unsettled(self) -> builtins.list[control.LayerEntry]:
        """Frozen layers that something needs and that have no root yet; those that can be settled now first."""
        return self._settling.waiting()

    def settle_next(self) -> bool:
        """Settle the oldest frozen layer; False when there is none. Raises what the settler reports."""
        self.freeze_large()
        return self._settling.next()

    def freeze_large(self) -> None:
        """Freeze live layers that have become large, so that they can be settled; faster, where these are many."""
        for workspace in self.host.wants_freeze():
            self._freeze_open(workspace)
        self.jobs.settler.hurry(self._settling.behind())

    def _freeze_open(self, workspace: str) -> None:
        with self._verbs[workspace]:
            if self.host.is_open(workspace):
                self._branches.take(workspace, self.host.freeze(workspace, self._ids("lay")).operations)

    def _freeze(self, name: str) -> None:
        self._freeze_open(self._branches.ready(name).id)

    def settle(self, ws: str | None = None) -> None:
        """Settle until every frozen layer of ``ws`` (or of the store) has a root."""
        with self.jobs.settler.waited_for():
            while True:
                if (waiting := {entry.id for entry in self.unsettled()}) and ws is not None:
                    with self._lock:
                        waiting &= {layer.id for layer in self.catalog.chain(self.catalog.by_name(ws).parent_layer)}
                if not waiting or not self.settle_next():
                    return
