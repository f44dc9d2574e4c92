"""One mutable branch: a view over a live layer, its journal, and the two verbs that move between layers.

Threads: ``lock`` covers the view, the journal's end and the swap of views; a transport holds it from
loading ``view`` until its reply is written. ``_verbs`` serialises checkpoint and restore and is taken
first. ``journal.sync`` runs outside ``lock``. Whatever a verb did is handed back as control log operations:
the marker in the journal is the commit point, the control log copies it later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cowfs.blocks.api import BlockSource
from cowfs.catalog.apply import UNDO
from cowfs.compare import compare
from cowfs.errors import Busy, Corrupt
from cowfs.formats import control
from cowfs.formats import journal as j
from cowfs.geometry import ROOT_INO, Geometry
from cowfs.layers.answers import Answer, answer_to
from cowfs.layers.journal import Journal, JournalFile, JournalStatistics, Limits, Position
from cowfs.layers.layer import Layer
from cowfs.layers.replay import misfit, replay_record
from cowfs.layers.tail import Damage, read_tail
from cowfs.orders import CheckpointOrder as CheckpointOrder
from cowfs.orders import RestoreOrder as RestoreOrder
from cowfs.orders import asked, kept
from cowfs.pressure import Backlog, Lag, Pressed, backlog
from cowfs.remembered import Made, WentBack
from cowfs.results import Handle
from cowfs.subtrees import Job
from cowfs.transport import Transport
from cowfs.untold import Untold
from cowfs.view.inode import ViewStatistics
from cowfs.view.room import NO_QUOTA, Disk, Quota, Room
from cowfs.view.state import KNOWN_LIMIT, State
from cowfs.view.view import View

LIVE_INODES_MAX = 200_000
"""Inodes of a live delta at which it is frozen by itself, so that replay and memory stay bounded."""

LIVE_BYTES_MAX = 256 * 1024 * 1024
"""Journal bytes of a live layer at which it is frozen by itself."""

LIVE_RECORDS_MAX = 150_000
"""Journal records of a live layer, and extents that clones made, at which it is frozen by itself: 2 s of replay."""


@dataclass(frozen=True, slots=True)
class Env:
    """What a workspace takes from outside: ``clock`` gives ns since the epoch, ``disk`` is where the journals lie."""

    blocks: BlockSource
    geometry: Geometry
    journals: Path
    clock: Callable[[], int]
    disk: Disk
    limits: Limits = field(default_factory=Limits)
    lag: Lag = field(default_factory=Lag)


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a workspace stands: its live layer on top of ``parent``, journaled from ``position`` on.

    ``head_layer`` is the layer of ``head``; layers frozen since have no snapshot of their own.
    """

    id: str
    live: str
    parent: Layer
    head: str | None
    next_ino: int
    position: Position
    head_layer: str | None = None
    quota: Quota = NO_QUOTA


class Outcome(NamedTuple):
    """What a verb did: operations for the control log, and the layers frozen on the way, oldest first."""

    operations: tuple[control.Operation, ...]
    layers: tuple[Layer, ...]
    snapshot: str | None = None
    changed: int = 0
    handles: tuple[Handle, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkspaceStatistics:
    """Counts of this moment; ``backlog``: what waits to be settled, below and in the live layer."""

    view: ViewStatistics
    journal: JournalStatistics
    backlog: Backlog


class Workspace:
    """A workspace in the process that serves it."""

    def __init__(self, env: Env, branch: Branch) -> None:
        self.env = env
        self.id = branch.id
        self.lock = threading.RLock()
        self.transport: Transport | None = None
        self.live = branch.live
        self.head = branch.head
        self.head_layer = branch.head_layer
        self.room = Room(env.disk, branch.quota)
        self.journal = Journal(env.journals, branch.id, branch.position, env.limits, env.disk.relieve)
        self.known_limit = KNOWN_LIMIT
        self.view = self._view(State(env.blocks, env.geometry, branch.parent, branch.next_ino))
        self.unanswered: Answer | None = None
        self.untold = Untold()
        self.jobs: dict[str, Job] = {}
        self._carried_bytes = 0
        self._crossed = False  # replayed a marker
        self._verbs = threading.Lock()
        self._owed: list[control.Operation] = []
        self._owed_layers: list[Layer] = []

    def _view(self, state: State) -> View:
        state.known_limit = self.known_limit
        return View(state, self.journal, self.env.clock, self.room)

    @classmethod
    def open(cls, env: Env, branch: Branch, resolve: Callable[[str], Layer]) -> tuple[Workspace, Outcome]:
        """Open a workspace and replay its journal from ``branch.position``.

        ``resolve`` gives the layer of an id that the control log knows. The outcome holds what markers in
        the journal say beyond the control log. Where the journal is damaged, the workspace is as it was before that,
        and read-only. Raises Corrupt when a record does not fit.
        """
        workspace = cls(env, branch)
        replayer = _Replayer(workspace, resolve)
        replayer.run(branch.position)
        workspace.unanswered = replayer.unanswered()
        if replayer.operations:
            workspace._crossed = True
            workspace.journal.sync()  # the control log must not know of layers that a power loss can take away
        return workspace, Outcome(tuple(replayer.operations), tuple(replayer.layers))

    def know(self, limit: int) -> None:
        """Keep about so many resolved but unchanged inodes in memory from now on."""
        self.known_limit = self.view.state.known_limit = limit

    def sync(self) -> None:
        """Return when everything answered before the call survives power loss. Raises OSError."""
        self.journal.sync()

    def statistics(self) -> WorkspaceStatistics:
        """Counts of this moment."""
        waiting = backlog(self.view.state, self.journal)
        return WorkspaceStatistics(self.view.statistics(), self.journal.statistics(), waiting)

    def pressed(self) -> Pressed | None:
        """What a change costs now; None: nothing. Needs no lock."""
        return self.env.lag.pressed(self.view.state, self.journal, self.env.clock())

    @property
    def changed(self) -> bool:
        """Whether there is any change since the head. Needs the lock for an exact answer."""
        state = self.view.state
        return bool(state.live) or state.parent is None or state.parent.id != self.head_layer

    @property
    def wants_freeze(self) -> bool:
        """Whether the live layer has become so large that it should be frozen and settled."""
        journal = self.journal
        return (
            len(self.view.state.live) >= LIVE_INODES_MAX
            or journal.layer_bytes() >= LIVE_BYTES_MAX + self._carried_bytes
            or journal.layer_records() + self.view.state.cloned >= LIVE_RECORDS_MAX
        )

    def checkpoint(self, order: CheckpointOrder) -> Outcome:
        """Freeze the live layer as a snapshot, durably. Without changes and ``allow_empty``: no snapshot.

        Raises OSError when a dirty mapping cannot be flushed or the journal cannot be written; what was
        done all the same is in the outcome of a later call.
        """
        with self._verbs:
            if self.transport is not None:
                self.transport.flush_writable()
            made = None
            with self.lock:
                if self.head is None or order.allow_empty or self.changed:
                    self._checkpoint(order)
                    made = order.snapshot
            if made is not None or self._owed:
                self.journal.sync()
            return self._outcome(made)

    def _outcome(self, snapshot: str | None = None, changed: int = 0, handles: tuple[Handle, ...] = ()) -> Outcome:
        """Hand over everything that was done and not handed over yet, by this call or by one that failed."""
        done = Outcome(tuple(self._owed), tuple(self._owed_layers), snapshot, changed, handles)
        self._owed, self._owed_layers = [], []
        return done

    def freeze(self, live: str) -> Outcome:
        """Freeze the live layer without a snapshot, to bound memory and replay. No transport is asked."""
        with self._verbs:
            with self.lock:
                if self.view.state.live or self.wants_freeze:
                    record = j.Freeze(self.view.state.next_ino, self.live.encode(), live.encode())
                    self._mark(record, self.env.clock())
                    self._owe(self._frozen(live))
            if self._owed:
                self.journal.sync()
            return self._outcome()

    def _owe(self, done: tuple[tuple[control.Operation, ...], Layer]) -> None:
        self._owed += done[0]
        self._owed_layers.append(done[1])
        self._carry()

    def _carry(self) -> None:
        """Journal in the new layer what a successor needs of the one before: it will not read that one again.

        On a full disk it is left out: what must not be lost is in the layer itself.
        """
        with suppress(OSError):
            if self.unanswered is not None:
                self.journal.append(j.Pending(*self.unanswered), self.env.clock())
            self._journal_untold()
            self._carried_bytes = self.view.carry_opens()

    def _journal_untold(self) -> None:
        if self.untold:
            self.untold.find_out(self.view.state)
            for record in self.untold.records():
                self.journal.append(record, self.env.clock())

    def outlived(self) -> None:
        """Just opened, and a kernel goes on with a mount of before, which the transport to come will tell everything.

        Until then a successor must know what that is. It will not read again what lies before the last marker, and who
        wrote that one may have died before it carried over what is open.
        """
        with self.lock, suppress(OSError):  # a full disk: only the next death would matter
            if self._crossed:
                self._carry()
            else:
                self._journal_untold()

    def told(self) -> None:
        """The kernel knows of every restore, or there is none that has to."""
        with self.lock, suppress(OSError):
            if self.untold:
                self.untold.told()
                self.journal.append(j.Invalidated(self.live.encode()), self.env.clock())

    def answer(self, connection: int, unique: int) -> Answer | None:
        """What the answer to a request that comes again needs; None: it was not carried out. Needs the lock."""
        known = self.unanswered
        if known is None or (known.connection, known.unique) != (connection, unique):
            return None
        return known

    def _checkpoint(self, order: CheckpointOrder) -> None:
        time = self.env.clock()
        record = j.Checkpoint(
            self.view.state.next_ino, int(order.automatic), order.snapshot.encode(), self.live.encode(),
            order.live.encode(), (self.head or "").encode(), order.message.encode(),
            b"\0".join(label.encode() for label in order.labels), order.creator.encode(), *asked(order.request),
        )  # fmt: skip
        self._mark(record, time)
        self._owe(self._snapshot(record, time))

    def _mark(self, record: j.Record, time: int) -> None:
        """Journal a marker. Behind damage that cannot be: there the control log alone says what the marker would."""
        if self.journal.damage is None:
            self.journal.append(record, time)

    def _snapshot(self, record: j.Checkpoint, time: int) -> tuple[tuple[control.Operation, ...], Layer]:
        """What a Checkpoint marker means, made now or replayed."""
        labels = tuple(label.decode() for label in record.labels.split(b"\0")) if record.labels else ()
        operations, layer = self._made(record, record.live, time, labels, bool(record.automatic))
        return (*operations, *kept(record, time, Made(record.snapshot.decode()))), layer

    def _made(
        self, record: j.Checkpoint | j.Restore, live: bytes, time: int, labels: tuple[str, ...], automatic: bool
    ) -> tuple[tuple[control.Operation, ...], Layer]:
        """Freeze the live layer, as the snapshot that a marker names."""
        snapshot = record.snapshot if isinstance(record, j.Checkpoint) else record.undo
        operations, layer = self._frozen(live.decode())
        made = control.SnapshotMade(
            snapshot.decode(), self.id, self.head, layer.id, record.message.decode(),
            labels, record.creator.decode(), time, automatic,
        )  # fmt: skip
        self.head = made.id
        self.head_layer = layer.id
        return (operations[0], made, *operations[1:]), layer

    def _frozen(self, live: str) -> tuple[tuple[control.Operation, ...], Layer]:
        records = self.journal.layer_records() + self.view.state.cloned
        layer = self.view.state.freeze(self.live, self.id, self.journal.cut())
        layer.records = max(layer.records, records)
        self.live = live
        froze = control.Froze(layer.id, self.id, layer.parent_id, layer.spans, layer.next_ino, live)
        return (froze, self._position()), layer

    def _position(self) -> control.Position:
        position = self.journal.position
        return control.Position(self.id, position.file_no, position.offset, position.seq)

    def restore(self, order: RestoreOrder) -> Outcome:
        """Make the state exactly that of ``order.target``, in place. Durable, and nothing old is served after it.

        Raises Busy when something is mounted where the target has nothing to mount it on, or a disk is open, Corrupt
        when the journal is damaged.
        """
        if self.journal.damage is not None:
            raise Corrupt(
                f"the workspace is read-only, since its journal is damaged: {self.journal.damage.message}",
                hint="Fork it, and go on in the fork; then remove it.",
            )
        with self._verbs, self.transport.restoring() if self.transport is not None else nullcontext():
            if self.transport is not None:
                self.transport.flush_writable()
            with self.lock:
                old = self.view
                state = State(self.env.blocks, self.env.geometry, order.target, old.state.next_ino)
                if not order.force:
                    self._refuse_open(order.closed)
                    self._refuse_lost_mounts(state)
                changes = compare(old.state, state)
                record = self._restore_record(order, state, len(changes.inodes))
                time = self.env.clock()
                self.journal.append(record, time)
                operations, layer = self._restored(record, state, time)
                self._owed += operations
                self._owed_layers += () if layer is None else (layer,)
                self._carry()
                if self.transport is not None:
                    self.transport.begin_restore(changes)
            handles: list[Handle] = []
            try:
                self.journal.sync()
            finally:  # it has happened: nothing old may be seen, whatever the disk says
                if self.transport is not None:
                    handles = self.transport.invalidate(changes)
            with self.lock, suppress(OSError):  # without it a successor invalidates once more
                self.journal.append(j.Invalidated(order.live.encode()), self.env.clock())
            return self._outcome(record.undo.decode() or None, len(changes.inodes), tuple(handles))

    def _restore_record(self, order: RestoreOrder, state: State, changed: int) -> j.Restore:
        """The marker: one record, so that the snapshot of what was live is never there without the restore."""
        undo, made = order.undo, None
        if undo is not None and (self.changed or self.head is None or undo.allow_empty):
            made = undo
        back = None if undo is None else (made.snapshot if made is not None else self.head)
        live, message, creator = ("", "", "") if made is None else (made.live, made.message, made.creator)
        return j.Restore(
            state.next_ino, changed, order.snapshot.encode(), order.target.id.encode(), order.live.encode(),
            (back or "").encode(), live.encode(), message.encode(), creator.encode(), *asked(order.request),
        )  # fmt: skip

    def _restored(
        self, record: j.Restore, state: State, time: int
    ) -> tuple[tuple[control.Operation, ...], Layer | None]:
        """What a Restore marker means, made now or replayed; what was live becomes a snapshot, or is dropped."""
        made: tuple[control.Operation, ...] = ()
        layer = None
        if record.undo_live:
            made, layer = self._made(record, record.undo_live, time, (), automatic=True)
        self.journal.cut()
        old, self.view = self.view, self._view(state)
        self.view.adopt_opens(old)
        self.head = record.snapshot.decode()
        self.live = record.live.decode()
        parent = state.parent
        if parent is None:
            raise Corrupt("a workspace without a parent layer")
        self.head_layer = parent.id
        undo = record.undo.decode() or None
        done: tuple[control.Operation, ...] = (
            control.Restored(self.id, self.head, self.live, parent.id, state.next_ino),
            self._position(),
        )
        if record.changed and undo is not None:  # one that changed nothing leaves alone what --undo takes back
            done = (*done, control.Set(self.id, UNDO, undo.encode()))
        return (*made, *done, *kept(record, time, WentBack(self.head, undo, record.changed))), layer

    def _refuse_open(self, name: bytes) -> None:
        """A machine, or a kernel that has the disk mounted, would write what it remembers into what is restored."""
        inode = self.view.lookup(ROOT_INO, name) if name else None
        if inode is not None and self.view.descriptors(inode.ino):
            raise Busy(
                f"the disk {name.decode(errors='replace')} is attached, or its machine runs",
                hint="Stop the machine; `cowfs disk restore` detaches it, restores and attaches it again.",
            )

    def _refuse_lost_mounts(self, state: State) -> None:
        if self.transport is None:
            return
        lost = []
        for path, ino in self.transport.mount_points():
            inode = state.find(ino)
            if inode is None or not inode.nlink or inode.links != self.view.inode(ino).links:
                lost.append(path)
        if lost:
            raise Busy(
                f"restoring would detach what is mounted at {', '.join(sorted(lost))}: the snapshot lacks that place",
                hint="Unmount it first, or restore with --force to let it be detached.",
            )


class _Replayer:
    """Reads a workspace's journal from a position to its end, and takes the workspace along."""

    def __init__(self, workspace: Workspace, resolve: Callable[[str], Layer]) -> None:
        self.workspace = workspace
        self.resolve = resolve
        self.operations: list[control.Operation] = []
        self.layers: list[Layer] = []
        self._last: list[j.Envelope] = []
        self._inherited: Answer | None = None

    def unanswered(self) -> Answer | None:
        """The answer to the last request, which may not have been given."""
        return answer_to(self._last) if self._last else self._inherited

    def run(self, position: Position) -> None:
        """Replay everything behind ``position``; afterwards the journal goes on at the end of what is good.

        What cannot be read is cut when it was never durable, so nothing acknowledged as such is lost; when it was,
        the files stay as they are and the workspace is read-only from now on.
        """
        journal = self.workspace.journal
        try:
            for file, at, end, envelope in read_tail(journal.directory, journal.workspace, position, writable=True):
                if envelope is None:
                    journal.enter(file, at)
                else:
                    journal.replayed(envelope.seq, end)
                    self._record(envelope, file, at)
        except Damage as damage:
            journal.stop(damage)
        else:
            journal.cut_tail()

    def _record(self, envelope: j.Envelope, file: JournalFile, offset: int) -> None:
        record = envelope.record
        if envelope.unique:
            last = self._last
            if last and (last[0].unique != envelope.unique or last[0].connection != envelope.connection):
                last.clear()
            last.append(envelope)
        if isinstance(record, j.MARKERS):
            try:
                self._marker(record, envelope.time)
            except (Corrupt, UnicodeDecodeError) as error:
                raise misfit(error, file, offset) from error
        else:
            replay_record(self.workspace.view.state, envelope, file, offset)

    def _marker(self, record: j.Record, time: int) -> None:
        workspace = self.workspace
        if isinstance(record, j.Checkpoint):
            self._took(workspace._snapshot(record, time))
        elif isinstance(record, j.Freeze):
            self._took(workspace._frozen(record.live.decode()))
        elif isinstance(record, j.Invalidated):
            workspace.untold.told()
        elif isinstance(record, j.Stale):
            workspace.untold.journaled(record)
        elif isinstance(record, j.Restore):
            workspace.untold.restored(workspace.view.state)
            operations, layer = workspace._restored(record, self._target(record), time)
            self.operations += operations
            self.layers += () if layer is None else (layer,)
        elif isinstance(record, j.Pending) and record != j.CLEAN_END:
            self._last.clear()
            self._inherited = Answer(*record)

    def _took(self, made: tuple[tuple[control.Operation, ...], Layer]) -> None:
        self.operations += made[0]
        self.layers.append(made[1])

    def _target(self, record: j.Restore) -> State:
        wanted = record.target.decode()
        layer = next((layer for layer in self.layers if layer.id == wanted), None) or self.resolve(wanted)
        return State(self.workspace.env.blocks, self.workspace.env.geometry, layer, record.next_ino)
