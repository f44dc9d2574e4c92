"""How a daemon is put together from engine, worker, mounts and API; the only module that knows them all."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from cowfs.blocks.suspect import Deaths
from cowfs.client.place import daemon_dir
from cowfs.engine import Engine
from cowfs.errors import Busy, CowfsError
from cowfs.workspace import Env
from cowfs_daemon import identity, orphans
from cowfs_daemon.collecting import Collecting
from cowfs_daemon.gauges import Picture
from cowfs_daemon.keeper import RESTART_CODE
from cowfs_daemon.mounts import Mounts, runtime_dir
from cowfs_daemon.offline import new_id
from cowfs_daemon.pool import WorkerPool
from cowfs_daemon.ports import Parts
from cowfs_daemon.reindexing import IndexWatch
from cowfs_daemon.remote import RemoteHost, WorkerProcess
from cowfs_daemon.scrubs import Scrubs
from cowfs_daemon.serving import Serving
from cowfs_daemon.settling import Settling
from cowfs_daemon.start import answers, listen, unlisten
from cowfs_daemon.supervised import Supervised
from cowfs_daemon.surroundings import SUPERVISOR_OOM, set_oom_score
from cowfs_daemon.watchdog import BEAT_SECONDS, Watchdog

log = logging.getLogger("cowfs.daemon")
OWNER_WAIT_SECONDS = 10.0
LOSSES_MAX = 10
"""So many workers in a row may end before they serve what the one before them served; then something is wrong."""

PAUSE_MAX_SECONDS = 5.0
"""How long the next of such a row waits at most."""

_OWNER_POLL_SECONDS = 0.05


class Owner:
    """An open store with its workers, its mounts and its settling thread."""

    def __init__(self, store: str, supervised: Supervised | None = None, workers: int | None = None) -> None:
        """``supervised``: what there is of a keeper. ``workers``: how many at most; one per CPU by default.

        Raises what Engine.open does, and what the worker's start fails with.
        """
        self._store = store
        self._supervised = supervised or Supervised()
        self._workers = workers or len(os.sched_getaffinity(0))
        self._losses: Counter[RemoteHost] = Counter()
        self._running = False
        self._outdated = False
        index = Path(store) / "index"
        self._deaths, self.watch = Deaths(index), IndexWatch(index)
        self.engine = self._open()
        self.engine.images.owners = identity.owners()
        if self.engine.reindexed is not None:
            log.warning("%s", self.engine.reindexed)
        self.watchdog = Watchdog(self._watched, beat_seconds=BEAT_SECONDS)
        self.watchdog.start()
        self.engine.reserve.refill()
        self.serving = Serving(self.engine, self.pool)
        self.settling = Settling(self.engine, self.spread)
        self.collecting = Collecting(self.engine.collector, self.engine.retention, self.engine.reserve)
        self.scrubs = Scrubs(self.engine.scrubber, time.time_ns)
        directory = runtime_dir(self.engine.store.superblock.store_id.hex(), dict(os.environ), os.geteuid())
        state = os.path.join(daemon_dir(store), "mounts.json")
        self.mounts = Mounts(self.serving, directory, state, self._resolve)
        mounted = self.mounts.mounted
        self._picture = Picture(self.engine, self.pool, self._settle_lag_s, lambda: len(mounted()), self._processes)

    def _open(self) -> Engine:
        """Become the owner, waiting for a moment for one that is ending."""
        until = time.monotonic() + OWNER_WAIT_SECONDS
        while True:
            try:
                return Engine.open(Path(self._store), time.time_ns, new_id, self._start_host)
            except Busy:
                if time.monotonic() > until or answers(self._store):
                    raise
                time.sleep(_OWNER_POLL_SECONDS)

    def _start_host(self, env: Env) -> WorkerPool:
        store = Path(self._store)
        orphans.wait_none(self._store)

        def start(on_end: Callable[[], None]) -> WorkerProcess:
            return WorkerProcess(store, self._supervised.descriptor, on_end)

        self.pool = WorkerPool(env, self._workers, start, self._worker_lost)
        return self.pool

    def _watched(self) -> list[WorkerProcess]:
        processes = (worker.process for worker in self.pool.workers)
        return [each for each in processes if each is not None and each.live and not each.closing]

    def _worker_lost(self, worker: RemoteHost, served: frozenset[str]) -> None:
        """In the thread that read its answers: let another one start the next."""
        log.error("worker %s ended by itself, with code %s", worker.pid, worker.code)
        self._deaths.died("worker", worker.code)
        self.watch.look()
        if worker.process is not None and worker.process.outdated and self._running:
            self._outdated = True  # the supervisor gives way; its successor's workers serve
            return
        if worker.failed:
            # It has said why: the start of the daemon fails, and says so too.
            self.pool.give_up()
            return
        if self._running:
            self.mounts.lost(self.serving.lost(served))
        recovery = threading.Thread(target=self._recover, args=(worker, served), name="cowfs-recovery", daemon=True)
        recovery.start()

    def _recover(self, worker: RemoteHost, served: frozenset[str]) -> None:
        """Start a worker in its place, and have the mounts taken over.

        Without a keeper, programs that had files open get ENOTCONN.
        """
        try:
            while not self._replaced(worker):
                pass
            worker.wait_started()
        except CowfsError as error:
            log.error("no worker for now: %s", error)  # the next one begins where this one's end is noticed
            return
        if not self._running:
            return  # the start of the daemon goes on with this one
        self.mounts.restore_all()
        self._abandon(served)
        if worker.started:
            self._losses[worker] = 0
            log.info("worker %s serves again", worker.pid)

    def _replaced(self, worker: RemoteHost) -> bool:
        """Start a worker in its place, after a pause if it was not the first. Raises Busy when that is given up."""
        self._losses[worker] += 1
        losses = self._losses[worker]
        if losses > LOSSES_MAX:
            self.pool.give_up()
            raise Busy(f"{LOSSES_MAX} workers in a row ended before they served")
        if losses > 1:
            time.sleep(min(0.05 * 2 ** (losses - 1), PAUSE_MAX_SECONDS))
        try:
            worker.replace()
        except OSError as error:
            log.error("cannot start a worker: %s", error)
            return False
        return True

    def _resolve(self, ref: str) -> tuple[str, str, bool]:
        """(workspace name or snapshot id, name of its mount point, read-only)."""
        if any(each.name == ref for each in self.engine.list()):
            return ref, ref, False
        snapshot = self.engine.snapshot(ref)
        # "@" is in no workspace's name, so the two kinds cannot meet.
        return snapshot.id, f"{snapshot.workspace}@{snapshot.id}", True

    def restore_mounts(self) -> None:
        """Mount what should be mounted; let go of what a predecessor had mounted and should not be."""
        self.mounts.restore_all()
        try:
            kept = self.serving.kept()
        except Busy as error:
            log.error("what else is mounted is not known: %s", error)
        else:
            self._abandon(kept)

    def _abandon(self, ids: Collection[str]) -> None:
        """Let go of what the keeper holds of ``ids`` and should not be mounted any more."""
        wanted = self.mounts.wanted()
        kept = wanted | {each.id for each in self.engine.list() if each.name in wanted}
        gone = [each for each in ids if each not in kept]
        for _ in range(LOSSES_MAX):
            with suppress(Busy):  # its successor is asked
                self.serving.abandon(gone)
                return
        log.error("what nobody wants stays mounted: no worker lives for long enough")

    def spread(self) -> None:
        """Spread workspaces over the workers; see Serving.spread."""
        self.serving.spread(self._again)

    def _again(self, refs: list[str]) -> None:
        self.mounts.lost(refs)
        self.mounts.restore_all()

    def wait_started(self) -> None:
        """Return when the first worker serves. Raises what its start failed with."""
        while True:
            try:
                self.pool.wait_started()
                break
            except Busy:
                if self.pool.given_up:
                    raise
                time.sleep(_OWNER_POLL_SECONDS)
        self._running = True

    def details(self) -> dict[str, Any]:
        """Their part of the daemon's status."""
        names = {each.id: each.name for each in self.engine.list()}
        workers = [
            {"pid": worker.pid, "workspaces": sorted(names[key] for key in worker.opened() if key in names)}
            for worker in self.pool.workers
            if worker.pid is not None
        ]
        return {
            "keeper": None if self._supervised.descriptor is None else {"pid": os.getppid()},
            "workers": workers,
            "settlers": [{"pid": pid} for pid in self._settlers()],
            "queues": {"settle": len(self.engine.unsettled())},
            "scrub": self.scrubs.status(),
            "index_rebuilt": None if self.engine.reindexed is None else str(self.engine.reindexed),
            **self._picture.summary(),
        }

    def parts(self) -> Parts:
        """What the supervisor runs."""
        return Parts(
            engine=self.engine,
            mounts=self.mounts,
            details=self.details,
            detach_all=self.mounts.detach_all,
            unlisten=lambda: unlisten(self._store),
            changed=self.settling.nudge,
            supervised=self._supervised,
            outdated=lambda: self._outdated,
            scrub=self.scrubs.scrub,
            samples=self._picture.samples,
        )

    def _settle_lag_s(self) -> float:
        return self.settling.drained_s if self.engine.unsettled() else 0.0

    def _processes(self) -> list[tuple[str, int]]:
        """(role, pid) of each."""
        found = [("supervisor", os.getpid()), *(("worker", pid) for pid in self.pool.pids)]
        found += [("keeper", os.getppid())] if self._supervised.descriptor is not None else []
        return found + [("settler", pid) for pid in self._settlers()]

    def _settlers(self) -> list[int]:
        """The pids of those that are running: the one that settles first, then the one that imports."""
        found = (each.statistics().pid for each in (self.engine.settler, self.engine.jobs.importer))
        return [pid for pid in found if pid is not None]

    def close(self) -> None:
        """Make everything durable and let go of the store; the workers end, and unmount what is left.

        With a keeper, what is mounted stays, for the workers of the next supervisor.
        """
        self.watchdog.stop()
        self.watch.stop()
        self.engine.jobs.copier.kill()
        self.collecting.stop()
        self.scrubs.stop()
        self.settling.stop()
        try:
            self.pool.shut()
        finally:
            self.engine.close()


def serve_store(
    store: str, ready: Callable[[], None], supervised: Supervised | None = None, workers: int | None = None
) -> int:
    """Own ``store`` and serve it until stopped; the exit code. ``ready`` is called when the API answers.

    ``supervised``: what there is of a keeper. ``workers``: how many at most.
    """
    set_oom_score(SUPERVISOR_OOM)
    keeper = supervised or Supervised()
    keeper.begin()
    owner = Owner(store, keeper, workers)
    renewing = False
    try:
        # The slowest imports, while the first worker starts.
        import trio

        from cowfs_daemon.supervisor import supervise

        owner.watch.start()
        owner.wait_started()
        with listen(store) as sock:
            owner.restore_mounts()
            owner.settling.start()
            owner.collecting.start()
            owner.scrubs.start()
            renewing = trio.run(supervise, sock, owner.parts(), lambda: _ready(ready, keeper))
        keeper.serving_ends(stopping=not renewing)
    finally:
        unlisten(store)
        owner.close()
    return RESTART_CODE if renewing else 0


def _ready(ready: Callable[[], None], keeper: Supervised) -> None:
    keeper.ready()
    ready()
