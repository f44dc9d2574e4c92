"""How a daemon is put together from engine, worker, mounts and API; the only module that knows them all."""

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cowfs.client.place import daemon_dir
from cowfs.engine import Engine
from cowfs.errors import Busy, CowfsError
from cowfs.workspace import Env
from cowfs_daemon.keeper import die_with_parent, send
from cowfs_daemon.mounts import Mounts, runtime_dir
from cowfs_daemon.offline import new_id
from cowfs_daemon.ports import Parts
from cowfs_daemon.remote import RemoteHost, WorkerProcess
from cowfs_daemon.settling import Settling
from cowfs_daemon.start import answers, listen, unlisten

log = logging.getLogger("cowfs.daemon")
OWNER_WAIT_SECONDS = 10.0
LOSSES_MAX, LOSSES_SECONDS = 3, 60
"""So many workers may end by themselves within so long; then something is wrong with the store or the machine."""

_OWNER_POLL_SECONDS = 0.05


class WorkerServer:
    """The Server of the mounts: serves them in the worker."""

    def __init__(self, engine: Engine, host: RemoteHost) -> None:
        self._engine = engine
        self._host = host
        self._ids: dict[str, str] = {}

    def serve(self, ref: str, path: str, read_only: bool) -> None:
        """See cowfs_daemon.mounts.Server."""
        served, point = self._engine.look(ref)
        # Unique for ever: it is part of the journaled request keys.
        connection_id = secrets.randbits(63)
        if read_only:
            self._host.call("mount_frozen", served, point.chain, path, connection_id)
        else:
            self._host.call("mount", served, path, connection_id)
        self._ids[ref] = served

    def unserve(self, ref: str, path: str, force: bool) -> None:
        """See cowfs_daemon.mounts.Server."""
        served = self._ids.get(ref)
        if served is not None:
            self._host.call("unmount", served, force)
            self._ids.pop(ref, None)

    def pids(self) -> frozenset[int]:
        """The supervisor and the worker."""
        worker = self._host.pid
        return frozenset((os.getpid(),) if worker is None else (os.getpid(), worker))


class Owner:
    """An open store with its worker, its mounts and its settling thread."""

    def __init__(self, store: str, keeper: int | None = None) -> None:
        """``keeper``: the descriptor of the keeper's socket.

        Raises what Engine.open does, and what the worker's start fails with.
        """
        self._store = store
        self._keeper = keeper
        self._losses: list[float] = []
        self._serving = False
        self.engine = self._open()
        self.settling = Settling(self.engine)
        directory = runtime_dir(self.engine.store.superblock.store_id.hex(), dict(os.environ), os.geteuid())
        state = os.path.join(daemon_dir(store), "mounts.json")
        self.mounts = Mounts(WorkerServer(self.engine, self._host), directory, state, self._resolve)

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

    def _start_host(self, env: Env) -> RemoteHost:
        store = Path(self._store)
        self._host = RemoteHost(env, lambda on_end: WorkerProcess(store, self._keeper, on_end), self._worker_lost)
        return self._host

    def _worker_lost(self) -> None:
        """In the thread that read its answers: let another one start the next."""
        log.error("worker %s ended by itself", self._host.pid)
        if not self._serving:
            # The start of the daemon fails, and says why.
            self._host.give_up()
            return
        self.mounts.lost()
        threading.Thread(target=self._recover, name="cowfs-recovery", daemon=True).start()

    def _recover(self) -> None:
        """Start a worker that takes the mounts over; without a keeper, programs that had files open get ENOTCONN."""
        now = time.monotonic()
        self._losses = [*(at for at in self._losses if now - at < LOSSES_SECONDS), now]
        if len(self._losses) > LOSSES_MAX:
            log.error("%d workers ended within %d s: giving up", LOSSES_MAX, LOSSES_SECONDS)
            self._host.give_up()
            return
        try:
            self._host.replace()
            self._host.wait_started()
        except (CowfsError, OSError):
            log.exception("no worker can be started")
            self._host.give_up()
            return
        self.restore_mounts()
        log.info("worker %s serves again", self._host.pid)

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
        self._host.call("abandon_kept")

    def wait_started(self) -> None:
        """Return when the worker serves. Raises what its start failed with."""
        self._host.wait_started()
        self._serving = True

    def details(self) -> dict[str, Any]:
        """Their part of the daemon's status."""
        opened = self._host.opened()
        names = [each.name for each in self.engine.list() if each.id in opened]
        worker = self._host.pid
        settler = self.engine.settler.statistics().pid
        return {
            "keeper": None if self._keeper is None else {"pid": os.getppid()},
            "workers": [] if worker is None else [{"pid": worker, "workspaces": names}],
            "settlers": [] if settler is None else [{"pid": settler}],
            "queues": {"settle": len(self.engine.unsettled())},
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
        )

    def close(self) -> None:
        """Make everything durable and let go of the store; the worker ends, and unmounts what is left."""
        self.settling.stop()
        try:
            self.engine.close()
        finally:
            self._host.shut()


def serve_store(store: str, ready: Callable[[], None], keeper: int | None = None) -> None:
    """Own ``store`` and serve it until stopped. ``ready`` is called when the API answers.

    ``keeper``: the descriptor of the socket to the keeper, who is the parent process; when it ends, so does this.
    """
    if keeper is not None:
        die_with_parent(signal.SIGTERM)
    owner = Owner(store, keeper)
    try:
        # The slowest imports, while the worker starts.
        import trio

        from cowfs_daemon.supervisor import supervise

        owner.wait_started()
        with listen(store) as sock:
            owner.restore_mounts()
            owner.settling.start()
            trio.run(supervise, sock, owner.parts(), lambda: _ready(ready, keeper))
    finally:
        unlisten(store)
        owner.close()


def _ready(ready: Callable[[], None], keeper: int | None) -> None:
    if keeper is not None:
        with socket.socket(fileno=os.dup(keeper)) as sock:
            send(sock, {"op": "ready"})
    ready()
