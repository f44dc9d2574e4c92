"""The owner's side of a worker process: starts it, and is the Host that the engine calls.

Threads: any thread may call; one thread per worker reads answers and hands each to the caller that waits for it.
``_lock`` guards the table of waiting callers.
"""

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cowfs.errors import Busy, CowfsError
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Chain, Done, Host, Point
from cowfs.results import Change
from cowfs.workspace import CheckpointOrder, Env, WorkspaceStatistics
from cowfs_daemon.channel import Channel, unpack_error

log = logging.getLogger("cowfs.remote")
CONTENTS_PER_MESSAGE = 1000
END_SECONDS = 30.0


class WorkerProcess:
    """One worker. ``on_end`` is called once, in the reading thread, when it is gone."""

    def __init__(self, store: Path, on_end: Callable[[], None]) -> None:
        """Start it and wait until it has opened the store. Raises what its start failed with."""
        ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-P", "-m", "cowfs_daemon.worker", "--store", os.fspath(store)]
            self._process = subprocess.Popen(
                [*words, "--socket", str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )
        self._channel = Channel(ours)
        hello = self._channel.receive()
        if hello is None or hello[2] is not None:
            self._channel.close()
            self._process.wait()
            raise CowfsError("the worker ended while it started") if hello is None else unpack_error(hello[2])
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] | None = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="cowfs-worker-answers", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, name: str, *arguments: object) -> Any:
        """Ask for one call and wait for its result. Raises what it raised, Busy when the worker is gone."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._waiting is None:
                raise _gone()
            self._waiting[number] = future
        try:
            self._channel.send((number, name, arguments))
        except OSError:
            raise _gone() from None
        return future.result()

    def _read(self) -> None:
        try:
            while (answer := self._channel.receive()) is not None:
                number, result, failure = answer
                with self._lock:
                    future = (self._waiting or {}).pop(number, None)
                if future is None:
                    log.error("an answer that nobody waits for: %r", number)
                elif failure is not None:
                    future.set_exception(unpack_error(failure))
                else:
                    future.set_result(result)
        except CowfsError:
            log.exception("worker %d", self.pid)
        with self._lock:
            waiting, self._waiting = self._waiting, None
        for future in (waiting or {}).values():
            future.set_exception(_gone())
        self._on_end()

    def close(self) -> int:
        """Let it end cleanly (killing it after 30 s), and reap it; its exit code."""
        self._channel.shut()
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("worker %d does not end: killing it", self.pid)
            self._process.kill()
            code = self._process.wait()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._channel.close()
        return code


def _gone() -> Busy:
    return Busy("the worker that serves the workspace has ended", hint="try again: a new one is started")


class RemoteHost(Host):
    """A Host whose workspaces live in a worker; see cowfs.host for every method."""

    def __init__(self, env: Env, worker: WorkerProcess) -> None:
        super().__init__(env)
        self.worker = worker
        self._settling = threading.Lock()
        self._opened: set[str] = set()

    def opened(self) -> frozenset[str]:
        """Ids of the workspaces that it serves."""
        return frozenset(self._opened)

    def serving(self, workspace: str) -> bool:
        """See Host.serving."""
        return bool(self.worker.call("serving", workspace))

    def open(self, spec: BranchSpec, known: Mapping[str, Chain]) -> Done:
        """See Host.open."""
        done: Done = self.worker.call("open", spec, dict(known))
        self._opened.add(spec.id)
        return done

    def close(self, workspace: str) -> None:
        """See Host.close."""
        self.worker.call("close", workspace)
        self._opened.discard(workspace)

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Done:
        """See Host.checkpoint."""
        done: Done = self.worker.call("checkpoint", workspace, order)
        return done

    def freeze(self, workspace: str, live: str) -> Done:
        """See Host.freeze."""
        done: Done = self.worker.call("freeze", workspace, live)
        return done

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool
    ) -> Done:
        """See Host.restore."""
        done: Done = self.worker.call("restore", workspace, snapshot, chain, live, undo, force)
        return done

    def wants_freeze(self) -> list[str]:
        """See Host.wants_freeze."""
        return list(self.worker.call("wants_freeze"))

    def settled(self, layer_id: str, root: bytes, contents: Iterable[tuple[int, Content]]) -> None:
        """See Host.settled; one layer at a time."""
        with self._settling:
            pairs = iter(contents)
            while piece := tuple(itertools.islice(pairs, CONTENTS_PER_MESSAGE)):
                self.worker.call("contents", piece)
            self.worker.call("settled", layer_id, root)

    def diff(self, old: Point, new: Point, horizon: int) -> list[Change]:
        """See Host.diff."""
        return list(self.worker.call("diff", old, new, horizon))

    def read(self, point: Point, path: bytes, offset: int, size: int) -> tuple[bytes, int]:
        """See Host.read."""
        data, whole = self.worker.call("read", point, path, offset, size)
        return data, whole

    def statistics(self) -> dict[str, WorkspaceStatistics]:
        """See Host.statistics."""
        found: dict[str, WorkspaceStatistics] = self.worker.call("statistics")
        return found
