"""Owning a store: its parts, the workspaces that hosts serve, and settling. The verbs are in :mod:`cowfs.engine`.

Locks, in this order: one verb lock per workspace (checkpoint, restore, fork, freeze, remove of that workspace);
``_lock`` for the catalog and what derives from it. The host is never called while ``_lock`` is held,
except to open a workspace. There are no threads here: whoever owns the store calls :meth:`Owner.settle_next`
in the background.

The journal is the truth about a workspace, the control log copies it. What a workspace did and the control log
does not know yet is *owed*: handed over by the workspace, but the log could not be written (``_owed``), or still in
the workspace, because its journal could not be synced (``_behind``). What owed operations name is not removed.
"""

from __future__ import annotations

import builtins
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.catalog.catalog import Catalog
from cowfs.catalog.refs import line_of
from cowfs.errors import Busy, Corrupt, CowfsError
from cowfs.formats import control
from cowfs.formats.superblock import Superblock
from cowfs.geometry import Geometry
from cowfs.host import BranchSpec, Chain, Done, Host, LayerSpec
from cowfs.layers.journal import file_path
from cowfs.lineage import trim, unsettled
from cowfs.settle.pool import SegmentPool
from cowfs.settle.process import Settler
from cowfs.store import StoreDirectory
from cowfs.workspace import Env

Clock = Callable[[], int]
Ids = Callable[[str], str]


class Owner:
    """One open store. ``clock`` gives ns since the epoch, ``ids(prefix)`` a new id never given out before."""

    def __init__(
        self, store: StoreDirectory, clock: Clock, ids: Ids, host: Callable[[Env], Host] | None = None
    ) -> None:
        self.store = store
        self._clock = clock
        self._ids = ids
        self._lock = threading.RLock()
        self._verbs: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._owed: dict[str, tuple[control.Operation, ...]] = {}
        self._behind: set[str] = set()
        self._stuck: set[str] = set()
        with ExitStack() as undo:
            self._owner = store.lock()
            undo.callback(store.unlock, self._owner)
            self._start(store, undo, host)
            self._parts = undo.pop_all()

    def _start(self, store: StoreDirectory, undo: ExitStack, host: Callable[[Env], Host] | None) -> None:
        """Open every part; ``undo`` closes again what was opened when a later part fails."""
        store.sweep_tmp()
        geometry = store.superblock.geometry
        self.catalog = Catalog.open(store.control)
        undo.callback(self.catalog.close)
        self.index = BlockIndex(store.index, writable=True)
        undo.callback(self.index.close)
        self.blocks = BlockReader(self.index, store.segments)
        undo.callback(self.blocks.close)
        self.segments = SegmentPool(store.segments)
        self.settler = Settler(
            store.index, store.tmp, self.segments, geometry, self.index.commit, reaped=self.index.clear_readers
        )
        undo.callback(self.settler.close)
        env = Env(self.blocks, geometry, store.journals, self._clock, store.space)
        self.host = Host(env) if host is None else host(env)
        self._catch_up()

    @classmethod
    def create_store(cls, path: Path, clock: Clock, store_id: bytes, geometry: Geometry | None = None) -> None:
        """Make an empty store; ``store_id`` is 16 random bytes. Raises Conflict, Invalid, NoSpace."""
        StoreDirectory.create(path, Superblock(store_id=store_id, created_at=clock(), geometry=geometry or Geometry()))

    @classmethod
    def open(cls, path: Path, clock: Clock, ids: Ids, host: Callable[[Env], Host] | None = None) -> Self:
        """Become the owner of a store. Raises NotFound, Busy, Corrupt."""
        return cls(StoreDirectory.open(path), clock, ids, host)

    def close(self) -> None:
        """Let go of everything, also when a part raises OSError; what was answered is in the journals."""
        with self._parts:
            for workspace in self.host.opened():
                self._parts.callback(self.host.close, workspace)

    def _catch_up(self) -> None:
        """Open every workspace whose journal goes on behind the control log: its markers count.

        A damaged one stays closed and keeps its files; whoever asks for it is told why.
        """
        journals = {path.name for path in self.store.journals.iterdir()}
        for entry in list(self.catalog.workspaces.values()):
            if entry.id in journals:
                with suppress(CowfsError, OSError):
                    self._open(entry)
        self.catalog.sync()
        for workspace in journals:
            self._trim(workspace)

    # ---- workspaces in the host ------------------------------------------------------------------

    def _chain(self, layer: str) -> Chain:
        return tuple(
            LayerSpec(entry.id, entry.workspace or "", entry.parent, entry.spans, entry.next_ino, entry.root)
            for entry in self.catalog.chain(layer)
        )

    def _open(self, entry: control.WorkspaceEntry) -> None:
        """Let the host serve a workspace; what its journal says beyond the control log is taken over."""
        with self._lock:
            if self.host.is_open(entry.id):
                return
            line = {snapshot.layer for snapshot in line_of(self.catalog, entry.id)}
            spec = BranchSpec(
                entry.id, entry.live_layer, self._chain(entry.parent_layer), entry.head, entry.next_ino,
                entry.position or (0, 0, 0), None if entry.head is None else self.catalog.snapshot(entry.head).layer,
            )  # fmt: skip
            done = self.host.open(spec, {layer: self._chain(layer) for layer in line})
            self._owed.pop(entry.id, None)  # the journal says all of it again
            self._behind.discard(entry.id)
            with suppress(CowfsError):
                self._take(entry.id, done.operations)

    def _by_name(self, name: str) -> control.WorkspaceEntry:
        with self._lock:
            return self.catalog.by_name(name)

    def _ready(self, name: str) -> control.WorkspaceEntry:
        """A workspace that the host serves."""
        with self._lock:
            entry = self.catalog.by_name(name)
            self._open(entry)
            with suppress(CowfsError):
                self._take(entry.id, ())
            return self.catalog.by_name(name)

    def _asked(self, workspace: str, verb: Callable[[], Done]) -> Done:
        """What ``verb`` of a workspace did. When it raises, the workspace may owe what it did all the same."""
        try:
            done = verb()
        except BaseException:
            self._behind.add(workspace)
            raise
        self._behind.discard(workspace)
        return done

    def _take(self, workspace: str, done: tuple[control.Operation, ...], *extra: control.Operation) -> None:
        """Copy what a workspace did into the control log; what cannot be written now is owed until it can."""
        with self._lock:
            owed = self._owed.pop(workspace, ()) + done
            try:
                self._commit(*owed, *extra)
            except BaseException:
                self._owed[workspace] = owed
                raise

    def _refuse_owing(self, workspace: str) -> None:
        """Raises Busy when the control log does not know what a workspace did last: it may name what is to go."""
        if workspace in self._behind:
            with self._lock:
                self._open(self.catalog.workspace(workspace))
        if workspace in self._owed or (workspace in self._behind and self.host.owes(workspace)):
            raise Busy(
                f"what {self.catalog.workspace(workspace).name} did last could not be made durable",
                hint="Look at the disk that holds the store, then start its daemon again.",
            )

    def open_workspace(self, name: str) -> str:
        """Let the host serve a workspace, for example to mount it; returns its id. Raises NotFound."""
        return self._ready(name).id

    def _commit(self, *operations: control.Operation, sync: bool = False) -> None:
        if operations:
            with self._lock:
                self.catalog.commit(*operations, sync=sync)

    # ---- settling --------------------------------------------------------------------------------

    def unsettled(self) -> builtins.list[control.LayerEntry]:
        """Frozen layers that something needs and that have no root yet; those that can be settled now first."""
        with self._lock:
            return unsettled(self.catalog, self._stuck)

    def settle_next(self) -> bool:
        """Settle the oldest frozen layer; False when there is none. Raises what the settler reports."""
        for workspace in self.host.wants_freeze():
            with self._verbs[workspace]:
                if self.host.is_open(workspace):
                    done = self._asked(workspace, partial(self.host.freeze, workspace, self._ids("lay")))
                    self._take(workspace, done.operations)
        waiting = self.unsettled()
        if not waiting:
            return False
        layer = waiting[0]
        with self._lock:
            parent = self.catalog.layer(layer.parent) if layer.parent is not None else None
        if parent is None or parent.root is None:
            raise Corrupt(f"layer {layer.id} stands on nothing settled", hint="Run: cowfs fsck")
        spans = [
            (str(file_path(self.store.journals, layer.workspace or "", span.file_no)), span.start, span.end)
            for span in layer.spans
        ]
        try:
            settled = self.settler.settle(parent.root, spans)
        except Corrupt:
            self._stuck.add(layer.id)
            raise
        with self._lock:
            if layer.id not in self.catalog.layers:
                return True  # nothing needs it any more
            logical = parent.logical_bytes + settled.logical_bytes
            self._commit(control.Settled(layer.id, settled.root, logical, settled.inodes), sync=True)
            if self.catalog.statistics().compaction_due:
                self.catalog.compact(self._clock())
        self.host.settled(layer.id, settled.root, settled.contents)
        self._trim(layer.workspace or "")
        return True

    def settle(self, ws: str | None = None) -> None:
        """Settle until every frozen layer of ``ws`` (or of the store) has a root."""
        while True:
            waiting = {entry.id for entry in self.unsettled()}
            if ws is not None:
                with self._lock:
                    waiting &= {layer.id for layer in self.catalog.chain(self.catalog.by_name(ws).parent_layer)}
            if not waiting or not self.settle_next():
                return

    def _trim(self, workspace: str) -> None:
        with self._lock:
            trim(self.catalog, self.store.journals, workspace)
