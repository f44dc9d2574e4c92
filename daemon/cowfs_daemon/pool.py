"""The workers of a store: which of them serves what, and the Host that the engine calls.

A workspace is served by one worker at a time. Those that share frozen layers in memory are placed together; what
stands on settled layers goes where least is served. A worker is started when there is something for it.

Thread-safe: ``_placing`` guards who serves what; it is never held during a call.
"""

import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from typing import Any

from cowfs.errors import Busy
from cowfs.formats import control
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Chain, Done, Host, LayerSpec, Point
from cowfs.remembered import Request
from cowfs.results import Change
from cowfs.subtrees import Part
from cowfs.view.room import Quota
from cowfs.workspace import CheckpointOrder, Env, WorkspaceStatistics
from cowfs_daemon.fuse.served import Handed
from cowfs_daemon.remote import RemoteHost, WorkerProcess

OPEN_TRIES = 10
"""So many workers may end while they open a workspace."""

Start = Callable[[Callable[[], None]], WorkerProcess]


class WorkerPool(Host):
    """Up to ``size`` workers behind one Host; see cowfs.host for every method that is not described here.

    ``start(on_end)`` makes a worker process. ``on_loss(worker, served)`` is called, in the thread that read its
    answers, when one has ended by itself; ``served``: the workspaces and snapshots that it served.
    """

    def __init__(
        self, env: Env, size: int, start: Start, on_loss: Callable[[RemoteHost, frozenset[str]], None]
    ) -> None:
        super().__init__(env)
        self._size = size
        self._start = start
        self._on_loss = on_loss
        self._placing = threading.Lock()
        self.given_up = False
        self.restarts = 0
        self._workers: list[RemoteHost] = []
        self._placed: dict[str, RemoteHost] = {}
        self._holders: dict[str, RemoteHost] = {}
        self.grow()

    # ---- workers ---------------------------------------------------------------------------------

    def grow(self) -> RemoteHost:
        """Start one more worker, without waiting for it."""
        worker = RemoteHost(self.env, self._start, self._lost)
        self._workers = [*self._workers, worker]
        return worker

    def _lost(self, worker: RemoteHost) -> None:
        with self._placing:
            self.restarts += 1
            served = frozenset(key for key, by in self._placed.items() if by is worker)
            self._placed = {key: by for key, by in self._placed.items() if by is not worker}
            self._holders = {layer: by for layer, by in self._holders.items() if by is not worker}
        self._on_loss(worker, served)

    @property
    def workers(self) -> list[RemoteHost]:
        """Every worker, in the order in which they were started."""
        return self._workers

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def wait_started(self) -> None:
        """Return when the first worker serves. Raises what its start failed with."""
        self._workers[0].wait_started()

    def give_up(self) -> None:
        """No worker will come any more: calls fail at once."""
        self.given_up = True
        for worker in self._workers:
            worker.give_up()

    def shut(self) -> int:
        """End every worker; the worst exit code."""
        for worker in self._workers:
            worker.hang_up()
        return max(worker.shut() for worker in self._workers)

    # ---- placement -------------------------------------------------------------------------------

    def place(self, key: str, chain: Chain) -> RemoteHost:
        """Who serves ``key``, a workspace or snapshot that stands on ``chain``; chosen when nobody does yet."""
        with self._placing:
            worker = self._placed.get(key)
            if worker is None:
                worker = self._placed[key] = self._sharing(chain) or self._idlest()
                self._holders.update((layer.id, worker) for layer in chain if layer.root is None)
            return worker

    def _sharing(self, chain: Chain) -> RemoteHost | None:
        """Who holds the newest layer of ``chain`` in memory, when it is not settled."""
        if not chain or chain[0].root is not None:
            return None
        return self._placed.get(chain[0].workspace) or self._holders.get(chain[0].id)

    def _idlest(self) -> RemoteHost:
        """Who serves least of those that are up; the next one is started meanwhile if all have something to do."""
        loads = self._loads()
        worker = min((worker for worker in self._workers if worker.started), key=loads.__getitem__, default=None)
        if worker is None:
            return self._workers[0]
        if loads[worker] and len(self._workers) < self._size and all(each.started for each in self._workers):
            with suppress(OSError, Busy):  # the others go on
                self.grow()
        return worker

    def _loads(self) -> Counter[RemoteHost]:
        loads = Counter(self._placed.values())
        for worker in self._workers:
            loads.setdefault(worker, 0)
        return loads

    def release(self, workspace: str, to: RemoteHost) -> Handed | None:
        """Have the worker of ``workspace`` let go of it (see Worker.release), so that ``to`` is where it opens next."""
        handed = self._of(workspace).release(workspace)
        with self._placing:
            self._placed[workspace] = to
        return handed

    def unplace(self, key: str) -> None:
        """Nobody serves ``key`` any more."""
        with self._placing:
            self._placed.pop(key, None)

    def served(self, worker: RemoteHost) -> list[str]:
        """The ids of what ``worker`` serves."""
        with self._placing:
            return [key for key, by in self._placed.items() if by is worker]

    def overload(self, stuck: Container[str]) -> tuple[str, RemoteHost] | None:
        """(a workspace of the busiest worker, the idlest worker), when it could well move there; none of ``stuck``."""
        with self._placing:
            loads = self._loads()
            up = [worker for worker in self._workers if worker.started]
            if len(up) < 2:
                return None
            most, least = max(up, key=loads.__getitem__), min(up, key=loads.__getitem__)
            if loads[most] - loads[least] < 2:
                return None
            for key, by in self._placed.items():
                if by is most and key not in stuck and most.is_open(key):
                    return key, least
            return None

    def _of(self, workspace: str) -> RemoteHost:
        with self._placing:
            worker = self._placed.get(workspace)
        if worker is None:
            raise Busy("the worker that serves the workspace has ended", hint="try again: a new one is started")
        return worker

    # ---- calls of one worker ---------------------------------------------------------------------

    def ask(self, key: str, name: str, *arguments: object, workspace: bool = False) -> Any:
        """A call of the worker that serves ``key``. Raises Busy when none does.

        ``workspace``: it is one, and must be open: it is not in a worker that was started meanwhile.
        """
        return self._of(key).call(name, *arguments, workspaces=(key,) if workspace else ())

    def is_open(self, workspace: str) -> bool:
        """See Host.is_open."""
        worker = self._placed.get(workspace)
        return worker is not None and worker.is_open(workspace)

    def serving(self, workspace: str) -> bool:
        """See Host.serving."""
        return self.is_open(workspace) and self._of(workspace).serving(workspace)

    def together(self, a: str, b: str) -> bool:
        """See Host.together."""
        return self._of(a) is self._of(b)

    def open(self, spec: BranchSpec, known: Mapping[str, LayerSpec]) -> Done:
        """See Host.open; the workspace goes where :meth:`place` says, and elsewhere when that worker ends meanwhile."""
        tries = OPEN_TRIES
        while True:
            worker = self.place(spec.id, spec.chain)
            try:
                done = worker.open(spec, known)
                with self._placing:  # it may have been started since `place` named it, which forgot that
                    self._placed[spec.id] = worker
                return self._made(worker, done)
            except BaseException as error:
                if not worker.is_open(spec.id):
                    self.unplace(spec.id)
                tries -= 1
                if not isinstance(error, Busy) or self.given_up or not tries:
                    raise

    def _made(self, worker: RemoteHost, done: Done) -> Done:
        """Remember who has the layers that a verb made."""
        with self._placing:
            for operation in done.operations:
                if isinstance(operation, control.Froze):
                    self._holders[operation.layer] = worker
        return done

    def close(self, workspace: str) -> None:
        """See Host.close."""
        worker = self._placed.get(workspace)
        self.unplace(workspace)
        if worker is not None:
            worker.close(workspace)

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Done:
        """See Host.checkpoint."""
        worker = self._of(workspace)
        return self._made(worker, worker.checkpoint(workspace, order))

    def freeze(self, workspace: str, live: str) -> Done:
        """See Host.freeze."""
        worker = self._of(workspace)
        return self._made(worker, worker.freeze(workspace, live))

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool,
        request: Request | None = None, closed: bytes = b"",
    ) -> Done:  # fmt: skip
        """See Host.restore."""
        worker = self._of(workspace)
        return self._made(worker, worker.restore(workspace, snapshot, chain, live, undo, force, request, closed))

    def limit(self, workspace: str, quota: Quota) -> None:
        """See Host.limit."""
        self._of(workspace).limit(workspace, quota)

    def usage(self, workspace: str) -> tuple[int, int]:
        """See Host.usage."""
        return self._of(workspace).usage(workspace)

    def remove_path(self, workspace: str, token: str, path: bytes | None) -> Part:
        """See Host.remove_path."""
        return self._of(workspace).remove_path(workspace, token, path)

    def clone_path(self, workspace: str, token: str, paths: tuple[bytes, bytes] | None) -> Part:
        """See Host.clone_path."""
        return self._of(workspace).clone_path(workspace, token, paths)

    def diff(self, old: Point, new: Point, horizon: int, limit: int | None = None) -> list[Change]:
        """See Host.diff. Live points must be :meth:`together`."""
        return self._looking(old, new).diff(old, new, horizon, limit)

    def read(self, point: Point, path: bytes, offset: int, size: int) -> tuple[bytes, int]:
        """See Host.read."""
        return self._looking(point).read(point, path, offset, size)

    def _looking(self, *points: Point) -> RemoteHost:
        """Who can best look at ``points``: who serves one that is live, else who has the layers."""
        for point in points:
            if not point.chain:
                return self._of(point.workspace)
        with self._placing:
            for point in points:
                if (worker := self._sharing(point.chain) or self._placed.get(point.workspace)) is not None:
                    return worker
            return self._workers[0]

    # ---- calls of all workers --------------------------------------------------------------------

    def opened(self) -> list[str]:
        """See Host.opened."""
        return [workspace for worker in self._workers for workspace in worker.opened()]

    def wants_freeze(self) -> list[str]:
        """See Host.wants_freeze."""
        return [workspace for worker in self._busy() for workspace in worker.wants_freeze()]

    def settled(self, layer_id: str, root: bytes, contents: Iterable[tuple[int, Content]]) -> None:
        """See Host.settled. Every worker may have replayed the layer from its journal."""
        pairs = tuple(contents)
        for worker in self._workers:
            with suppress(Busy):  # it has ended, and its successor will know of the root
                worker.settled(layer_id, root, pairs)
        with self._placing:
            self._holders.pop(layer_id, None)

    def stall(self, layers: Iterable[str]) -> None:
        """See Host.stall."""
        stuck = tuple(layers)
        for worker in self._workers:
            with suppress(Busy):
                worker.stall(stuck)

    def forget(self, layers: Iterable[str]) -> None:
        """See Host.forget."""
        gone = tuple(layers)
        for worker in self._workers:
            with suppress(Busy):
                worker.forget(gone)
        with self._placing:
            for layer in gone:
                self._holders.pop(layer, None)

    def forget_segments(self, segments: Iterable[int]) -> None:
        """See Host.forget_segments."""
        gone = tuple(segments)
        for worker in self._workers:
            with suppress(Busy):
                worker.forget_segments(gone)

    def unnamed(self) -> list[bytes]:
        """See Host.unnamed."""
        return [record for worker in self._workers for record in worker.unnamed()]

    def shown(self) -> dict[str, bytes]:
        """See Host.shown."""
        return {snapshot: root for worker in self._workers for snapshot, root in worker.shown().items()}

    def statistics(self) -> dict[str, WorkspaceStatistics]:
        """See Host.statistics."""
        found: dict[str, WorkspaceStatistics] = {}
        for worker in self._busy():
            found.update(worker.statistics())
        return found

    def _busy(self) -> list[RemoteHost]:
        return [worker for worker in self._workers if worker.opened()]
