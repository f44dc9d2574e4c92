"""What is mounted in which worker: the mounts' Server, and the moves that spread workspaces over the workers."""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection

from cowfs.engine import Engine
from cowfs.errors import Busy, Conflict, CowfsError, NotFound
from cowfs_daemon.pool import WorkerPool
from cowfs_daemon.ports import WorkerGone
from cowfs_daemon.remote import RemoteHost

log = logging.getLogger("cowfs.serving")


class Serving:
    """The Server of the mounts. ``_lock``: mounts, unmounts and moves take turns."""

    def __init__(self, engine: Engine, pool: WorkerPool) -> None:
        self._engine = engine
        self._pool = pool
        self._lock = threading.RLock()
        self._served: dict[str, tuple[str, str]] = {}  # reference -> (id, path)

    def serve(self, ref: str, path: str, read_only: bool) -> None:
        """See cowfs_daemon.mounts.Server."""
        with self._lock, self._engine.look(ref) as (served, point):
            ended = -1
            try:
                while ended != self._pool.restarts:
                    # Again when a worker has ended since: `lost` may have forgotten what its successor has mounted.
                    ended = self._pool.restarts
                    self._served[ref] = (served, path)
                    if read_only:
                        worker = self._pool.place(served, point.chain)
                        worker.call("mount_frozen", served, point.chain, path, _connection_id())
                    else:
                        self._pool.ask(served, "mount", served, path, _connection_id(), workspace=True)
            except BaseException:
                self._served.pop(ref, None)
                raise

    def serves(self, ref: str) -> bool:
        """See cowfs_daemon.mounts.Server."""
        return ref in self._served

    def unserve(self, ref: str, path: str, force: bool) -> None:
        """See cowfs_daemon.mounts.Server."""
        with self._lock:
            if ref not in self._served:
                return
            served, _ = self._served[ref]
            try:
                self._pool.ask(served, "unmount", served, force)
            except NotFound:
                if ref in self._served:
                    raise
                # Its worker has ended meanwhile, and the one that was started has not taken it over yet.
                raise WorkerGone(f"{ref} is just being mounted again", hint="try again") from None
            self._served.pop(ref, None)
            if not self._pool.is_open(served):
                self._pool.unplace(served)

    def pids(self) -> frozenset[int]:
        """The supervisor and the workers."""
        return frozenset((os.getpid(), *self._pool.pids))

    def lost(self, ids: Collection[str]) -> list[str]:
        """The references of what a worker served that is gone."""
        lost = [ref for ref, (served, _) in list(self._served.items()) if served in ids]
        for ref in lost:
            self._served.pop(ref, None)
        return lost

    def abandon(self, ids: Collection[str]) -> None:
        """Unmount those of ``ids`` that the keeper holds and nobody has mounted since."""
        with self._lock:
            wanted = {served for served, _ in self._served.values()}
            gone = tuple(each for each in ids if each not in wanted)
            if gone:
                self._pool.workers[0].call("abandon", gone)

    def kept(self) -> list[str]:
        """The ids of everything that the keeper holds."""
        found: list[str] = self._pool.workers[0].call("kept")
        return found

    def spread(self, again: Callable[[list[str]], None]) -> None:
        """Move workspaces from the busiest worker to the idlest until they have about as much to do.

        Programs in a workspace see a pause. ``again(refs)`` mounts what a move that failed has left unserved.
        """
        stuck: set[str] = set()
        while (found := self._pool.overload(stuck)) is not None:
            workspace, target = found
            if not self.move(workspace, target, again):
                stuck.add(workspace)

    def move(self, workspace: str, target: RemoteHost, again: Callable[[list[str]], None]) -> bool:
        """Let ``target`` serve a workspace (an id) from now on; False when it stays. ``again``: see :meth:`spread`."""
        with self._lock:
            mounted = [(ref, path) for ref, (served, path) in self._served.items() if served == workspace]
            handed, lost = None, False

            def release() -> None:
                nonlocal handed, lost
                lost = True  # until it is mounted again
                try:
                    handed = self._pool.release(workspace, target)
                except (Busy, Conflict):
                    lost = False  # it stays, or its worker has ended, whose successor serves it
                    raise

            try:
                if not self._engine.move(workspace, release):
                    return False
                for _, path in mounted:
                    self._pool.ask(workspace, "mount", workspace, path, _connection_id(), handed, workspace=True)
            except Busy as error:
                log.info("%s stays where it is: %s", workspace, error)
            except (CowfsError, OSError) as error:
                log.error("cannot move %s: %s", workspace, error)
            else:
                log.info("moved %s to worker %s", workspace, target.pid)
                return True
            refs = self.lost([workspace]) if lost else []
        if refs:
            again(refs)
        return False


def _connection_id() -> int:
    """Unique for ever: it is part of the journaled request keys."""
    return secrets.randbits(63)
