"""Every verb of a store, on top of the catalog, the block index, the settler and a host.

Locks and order: see :mod:`cowfs.owner`.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from cowfs import usage
from cowfs.catalog.names import check_workspace_name, fork_names
from cowfs.catalog.refs import Resolved, label_operations, line_of, resolve, resolve_snapshot
from cowfs.errors import Busy, Conflict, Corrupt, Invalid, NotFound
from cowfs.formats import control
from cowfs.fsck.problem import Problem
from cowfs.fsck.store import check_store
from cowfs.host import Point
from cowfs.lineage import horizon, line_users
from cowfs.owner import Owner
from cowfs.results import Change, Checkpointed, Restored, Snapshot, StoreUsage, Workspace
from cowfs.workspace import CheckpointOrder

Progress = Callable[[dict[str, Any]], None]

UNDO = "undo"
"""Setting of a workspace: the snapshot that takes back its last restore."""

MESSAGE_MAX = 64 * 1024
"""Characters in a message at most."""


class Engine(Owner):
    """The verbs of one open store. Results are frozen records, errors :class:`CowfsError`."""

    # ---- verbs -----------------------------------------------------------------------------------

    def create(self, name: str) -> Workspace:
        """An empty workspace: a root directory, mode 0755. Raises Invalid, Conflict."""
        self._refuse_taken([check_workspace_name(name)])
        root = self.settler.make_root(0o40755, 0, 0, self._clock())
        return self.adopt(name, root, 2, 0, 1)

    def import_tree(self, source: bytes, name: str, exclude: Sequence[str], progress: Progress) -> Workspace:
        """A workspace that holds a copy of a directory tree. Raises NotFound, Invalid, Conflict.

        ``progress`` is called with ``files`` and ``bytes`` so far, and at the end with ``problems``.
        """
        self._refuse_taken([check_workspace_name(name)])
        place = self.store.path.stat()

        def report(files: int, size: int) -> None:
            progress({"files": files, "bytes": size})

        result = self.settler.import_directory(source, exclude, [(place.st_dev, place.st_ino)], report)
        problems = [f"{os.fsdecode(path)}: {reason}" for path, reason in result.skipped]
        problems += [f"{os.fsdecode(path)}: changed while it was read" for path in result.changed]
        progress({"files": result.files, "bytes": result.bytes, "problems": problems})
        return self.adopt(name, result.root, result.next_ino, result.logical_bytes, result.files)

    def _refuse_taken(self, names: Sequence[str]) -> None:
        with self._lock:
            for name in names:
                if name in self.catalog.tables().names:
                    raise Conflict(f"a workspace named {name} exists", hint="Choose another name, or remove it.")

    def adopt(self, name: str, root: bytes, next_ino: int, logical: int, inodes: int) -> Workspace:
        """A new workspace whose base is a root that is stored already. Raises Invalid, Conflict."""
        layer, workspace, live = self._ids("lay"), self._ids("wsp"), self._ids("lay")
        self._commit(
            control.LayerImported(layer, None, root, next_ino, logical, inodes),
            control.WorkspaceCreated(workspace, name, self._clock(), live, layer, None, None, None, next_ino),
            sync=True,
        )
        return self.workspace(name)

    def checkpoint(
        self,
        ws: str,
        message: str,
        label: str | None = None,
        allow_empty: bool = False,
        creator: str = "",
        move: bool = False,
    ) -> Checkpointed:
        """Snapshot a workspace, durably. With nothing changed the head is returned, the label added to it.

        Raises NotFound, Invalid, Conflict (the label is taken and not to be moved), NoSpace.
        """
        if len(message) > MESSAGE_MAX:
            raise Invalid(f"a message of more than {MESSAGE_MAX} characters")
        entry = self._ready(ws)
        with self._verbs[entry.id]:
            with self._lock:
                if label is not None:
                    label_operations(self.catalog, entry.id, label, None, move=move)
                fresh = allow_empty or self.catalog.workspace(entry.id).head is None
            order = CheckpointOrder(self._ids("snap"), self._ids("lay"), message, (), creator, False, fresh)
            done = self._asked(entry.id, lambda: self.host.checkpoint(entry.id, order))
            self._take(entry.id, done.operations)
            with self._lock:
                head = done.snapshot or self._head(entry.id)
                if label is not None:
                    self._commit(*label_operations(self.catalog, entry.id, label, head, move=move), sync=True)
                return Checkpointed(self.snapshot(head), done.snapshot is not None)

    def _head(self, workspace: str) -> str:
        head = self.catalog.workspace(workspace).head
        if head is None:
            raise Corrupt(f"workspace {workspace} has no head after a checkpoint")
        return head

    def _automatic(self, message: str) -> CheckpointOrder:
        return CheckpointOrder(self._ids("snap"), self._ids("lay"), message, automatic=True, creator="cowfs")

    def restore(self, ws: str, ref: str, discard: bool = False, force: bool = False) -> Restored:
        """Make a workspace exactly what a snapshot of its own line is. Causes no inotify events.

        Raises NotFound, Conflict (a snapshot of another line), Busy (a mount would be detached).
        """
        entry = self._ready(ws)
        with self._verbs[entry.id]:
            with self._lock:
                found = resolve_snapshot(self.catalog, ref, entry.name)
                if not self.catalog.in_line(entry.id, found):
                    raise Conflict(
                        f"{ref} is not in the line of {ws}", hint=f"Fork it instead: cowfs fork {found.id} NAME"
                    )
                chain = self._chain(found.layer)
                fresh = self.catalog.workspace(entry.id).head is None
            automatic = self._automatic(f"before the restore of {found.id}")._replace(allow_empty=fresh)
            undo = None if discard else automatic
            live = self._ids("lay")
            done = self._asked(entry.id, lambda: self.host.restore(entry.id, found.id, chain, live, undo, force))
            # A restore that changed nothing leaves alone what --undo takes back.
            moved = done.snapshot is not None and done.changed
            extra = (control.Set(entry.id, UNDO, (done.snapshot or "").encode()),) if moved else ()
            self._take(entry.id, done.operations, *extra)
            undone = self.snapshot(done.snapshot) if done.snapshot is not None else None
            return Restored(self.snapshot(found.id), undone, done.changed, done.handles)

    def undo(self, ws: str) -> Restored:
        """Take back the last restore (which can be taken back in turn). Raises NotFound."""
        entry = self._by_name(ws)
        with self._lock:
            value = self.catalog.settings(entry.id).get(UNDO)
        if value is None:
            raise NotFound(f"{ws} has no restore to take back")
        return self.restore(ws, value.decode())

    def fork(self, ref: str, name: str, count: int | None = None) -> builtins.list[Workspace]:
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
            self.catalog.commit(*created, sync=True)
        return [self.workspace(each) for each in names]

    def _snapshot_of(self, ref: str) -> tuple[str, str]:
        """(workspace id, snapshot id) of a reference; a changed live workspace is snapshotted first."""
        with self._lock:
            found = resolve(self.catalog, ref)
        if found.snapshot is not None:
            return found.snapshot.workspace, found.snapshot.id
        entry = self._ready(found.workspace.name)
        with self._verbs[entry.id]:
            order = self._automatic(f"fork of {entry.name}")
            order = order._replace(allow_empty=entry.head is None)
            done = self._asked(entry.id, lambda: self.host.checkpoint(entry.id, order))
            self._take(entry.id, done.operations)
            with self._lock:
                return entry.id, done.snapshot or self._head(entry.id)

    def diff(self, a: str, b: str) -> builtins.list[Change]:
        """What differs between two references, by path. Raises NotFound, Invalid."""
        with self._lock:
            left, right = resolve(self.catalog, a), resolve(self.catalog, b)
        old, new = self._point(left), self._point(right)
        with self._lock:
            common = horizon(self.catalog, left, right)
        return self.host.diff(old, new, common)

    def _point(self, found: Resolved) -> Point:
        if found.snapshot is None:
            self._ready(found.workspace.name)
            return Point(found.workspace.id, ())
        with self._lock:
            return Point(found.workspace.id, self._chain(found.snapshot.layer))

    def show(self, ref: str, path: bytes) -> Iterator[bytes]:
        """The bytes of one file of a workspace or snapshot, in pieces. Raises NotFound, Invalid."""
        with self._lock:
            found = resolve(self.catalog, ref)
        point = self._point(found)
        offset = 0
        while True:
            data, size = self.host.read(point, path, offset, 1 << 20)
            yield data
            offset += len(data)
            if offset >= size or not data:
                return

    def look(self, ref: str) -> tuple[str, Point]:
        """(id, point) of a reference: a workspace, which the host then serves, or a snapshot. Raises NotFound."""
        with self._lock:
            found = resolve(self.catalog, ref)
        return (found.workspace if found.snapshot is None else found.snapshot).id, self._point(found)

    def label(self, ref: str, label: str, move: bool = False) -> Snapshot:
        """Give a snapshot one more name. Raises Conflict when it is taken and not to be moved."""
        with self._lock:
            found = resolve_snapshot(self.catalog, ref)
            self._commit(*label_operations(self.catalog, found.workspace, label, found.id, move=move), sync=True)
            return self._result(found)

    def rename(self, ws: str, name: str) -> Workspace:
        """Give a workspace another name. Raises NotFound, Invalid, Conflict."""
        check_workspace_name(name)
        entry = self._by_name(ws)
        self._commit(control.Renamed(entry.id, name), sync=True)
        return self.workspace(name)

    def remove(self, ref: str, force: bool = False) -> None:
        """Remove a workspace with its snapshots, or one snapshot; what forks need stays. Raises Busy, NotFound."""
        with self._lock:
            found = resolve(self.catalog, ref)
            users = line_users(self.catalog, found)
        with ExitStack() as held:
            for user in users:
                held.enter_context(self._verbs[user])
            for user in users:
                if user != found.workspace.id or found.snapshot is not None:
                    self._refuse_owing(user)
            if found.snapshot is not None:
                self._commit(control.SnapshotRemoved(found.snapshot.id), sync=True)
            else:
                self._remove_workspace(found.workspace, force)
        self._drop_unneeded()
        if found.snapshot is None:
            self._trim(found.workspace.id)

    def _remove_workspace(self, entry: control.WorkspaceEntry, force: bool) -> None:
        if not force and self.host.serving(entry.id):
            raise Busy(f"{entry.name} is mounted", hint="Unmount it first, or use --force.")
        self._commit(control.WorkspaceRemoved(entry.id), sync=True)
        self._owed.pop(entry.id, None)
        with suppress(OSError):  # nobody wants its journal to be durable
            self.host.close(entry.id)

    def _drop_unneeded(self) -> None:
        """Forget layers that nothing needs any more, and their journals."""
        with self._lock:
            dropped = self.catalog.unreachable()
            if dropped:
                self.catalog.commit(control.LayersDropped(tuple(layer.id for layer in dropped)), sync=True)
        for workspace in {layer.workspace for layer in dropped if layer.workspace is not None}:
            self._trim(workspace)

    # ---- looking ---------------------------------------------------------------------------------

    def workspace(self, name: str) -> Workspace:
        """One workspace by name. Raises NotFound."""
        return _workspace(self._by_name(name))

    def list(self) -> builtins.list[Workspace]:
        """Every workspace, by name."""
        with self._lock:
            entries = sorted(self.catalog.workspaces.values(), key=lambda entry: entry.name)
        return [_workspace(entry) for entry in entries]

    def snapshot(self, ref: str) -> Snapshot:
        """One snapshot. Raises NotFound, Invalid."""
        with self._lock:
            return self._result(resolve_snapshot(self.catalog, ref))

    def log(self, ws: str) -> builtins.list[Snapshot]:
        """The snapshots of a workspace's own line, newest first. Raises NotFound."""
        with self._lock:
            return [self._result(entry) for entry in line_of(self.catalog, self.catalog.by_name(ws).id)]

    def _result(self, entry: control.SnapshotEntry) -> Snapshot:
        root = self.catalog.layer(entry.layer).root
        return Snapshot(
            entry.id, self.catalog.workspace(entry.workspace).name, entry.parent, entry.message,
            self.catalog.labels_of(entry.id), entry.creator, entry.created_at, entry.automatic,
            "frozen" if root is None else "settled", None if root is None else root.hex(),
        )  # fmt: skip

    def stat(self) -> StoreUsage:
        """What the store holds and what each workspace alone keeps on disk."""
        return usage.measure(self.store, self.catalog, self.index, self.blocks)

    def fsck(self, deep: bool = False) -> Sequence[Problem]:
        """Check every invariant of the catalog and of everything settled; empty when all is well.

        ``deep`` also reads every block of file data. Unsettled layers are checked when they are replayed.
        """
        with self._lock:
            return builtins.list(check_store(self.catalog, self.blocks, self.store.superblock.geometry, deep=deep))


def _workspace(entry: control.WorkspaceEntry) -> Workspace:
    return Workspace(entry.id, entry.name, entry.head, entry.created_at)
