"""The owner's side of a worker process: starts it, and is the Host that the engine calls.

Threads: any thread may call; one thread per worker reads answers and hands each to the caller that waits for it.
``_lock`` guards the table of waiting callers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cowfs.errors import Busy, Conflict, CowfsError
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Chain, Done, Host, LayerSpec, Point
from cowfs.remembered import Request
from cowfs.results import Change
from cowfs.subtrees import Part
from cowfs.view.room import Quota
from cowfs.workspace import CheckpointOrder, Env, WorkspaceStatistics
from cowfs_daemon import lingering
from cowfs_daemon.channel import PROTOCOL, PULSE, Channel, unpack_error
from cowfs_daemon.fuse.served import Handed
from cowfs_daemon.ports import WorkerGone

log = logging.getLogger("cowfs.remote")
CONTENTS_PER_MESSAGE = 1000
END_SECONDS = 30.0
START_SECONDS = 30.0


class OtherVersion(Conflict):
    """A worker of a version that this one cannot talk to: the installed code has changed. ``said``: its greeting."""

    def __init__(self, said: Any) -> None:
        super().__init__(f"the installed worker says {said!r}, not protocol {PROTOCOL}", hint="cowfs daemon restart")


class WorkerProcess:
    """One worker. ``on_end`` is called once, in the reading thread, when it is gone: reaped, or unable to do anything
    any more but to wait for its own mount (see ``cowfs_daemon.lingering``)."""

    MODULE = "cowfs_daemon.worker"

    def __init__(self, store: Path, keeper: int | None, on_end: Callable[[], None]) -> None:
        """Start it, without waiting: calls wait until it has opened the store.

        ``keeper``: the descriptor of the keeper's socket, which it inherits.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-P", "-m", self.MODULE, "--store", os.fspath(store)]
            words += ["--socket", str(theirs.fileno())]
            inherited = [theirs.fileno()]
            if keeper is not None:
                words += ["--keeper", str(keeper)]
                inherited.append(keeper)
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=inherited)
        self._channel = Channel(ours)
        self._on_end = on_end
        self._closing = self._lingers = False
        self._numbers = itertools.count(1)
        self._started: Future[None] = Future()
        # The worker's first message, number 0, says how its start went.
        self._waiting: dict[int, Future[Any]] | None = {0: self._started}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="cowfs-worker-answers", daemon=True)
        self._thread.start()

    def wait_started(self) -> None:
        """Return when it serves. Raises what its start failed with."""
        self._started.result()

    @property
    def live(self) -> bool:
        """Whether it still answers."""
        return self._waiting is not None

    @property
    def started(self) -> bool:
        """Whether it has opened the store and answers."""
        return self.live and self._started.done() and self._started.exception() is None

    @property
    def failed(self) -> bool:
        """Whether it has said that it cannot open the store, and why."""
        return self._started.done() and self._started.exception() is not None

    @property
    def outdated(self) -> bool:
        """Whether it is of another version than this process."""
        return self.failed and isinstance(self._started.exception(), OtherVersion)

    @property
    def closing(self) -> bool:
        """Whether it has been told to end."""
        return self._closing

    def ask_pulse(self) -> Future[Any] | None:
        """See cowfs_daemon.watchdog.Watched."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._waiting is None:
                return None
            self._waiting[number] = future
        try:
            sent = self._channel.try_send((number, PULSE, ()))
        except OSError:
            sent = False
        if sent:
            return future
        with self._lock:
            (self._waiting or {}).pop(number, None)
        return None

    def kill(self) -> None:
        """End it by force; that is noticed as any other end."""
        self._process.kill()

    def hang_up(self) -> None:
        """Let it begin to end."""
        self._closing = True
        self._channel.shut()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended, as ``Popen.returncode``; None before it was reaped."""
        return self._process.returncode

    def call(self, name: str, *arguments: object) -> Any:
        """Ask for one call and wait for its result. Raises what it raised, Busy when the worker is gone."""
        self._started.result()
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
                elif number == 0 and (result is None or result[0] != PROTOCOL):
                    future.set_exception(OtherVersion(result))
                else:
                    future.set_result(result)
        except CowfsError:
            log.exception("worker %d", self.pid)
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if not self._closing:
            # Whoever goes on with its journals must find nobody writing there.
            self._kill_and_reap()
        # Before anyone is told: who sees the failure must find no workspace open.
        self._on_end()
        for future in (waiting or {}).values():
            future.set_exception(_gone())

    def notice_end(self) -> None:
        """Find out whether its main thread has ended: one that lingers keeps its end of the channel open."""
        if lingering.main_thread_ended(self.pid):
            self._channel.shut()

    def _kill_and_reap(self) -> None:
        if not self._lingers and not lingering.wait_harmless(self.pid, lambda: self._process.poll() is not None):
            log.warning("worker %d is dead, and waits for a mount that its successor is to serve", self.pid)
            self._lingers = True
            threading.Thread(target=self._process.wait, name="cowfs-reaper", daemon=True).start()

    def close(self) -> int:
        """Let it end cleanly (killing it after 30 s), and reap it; its exit code."""
        self.hang_up()
        if not self._lingers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        if self._process.returncode is None and not self._lingers:
            log.error("worker %d does not end: killing it", self.pid)
            self._kill_and_reap()
        code = self._process.returncode
        if code is None:
            code = -signal.SIGKILL
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._channel.close()
        return code


def _gone() -> WorkerGone:
    return WorkerGone("the worker that serves the workspace has ended", hint="try again: a new one is started")


def _live(*points: Point) -> list[str]:
    """The workspaces whose live state is looked at."""
    return [point.workspace for point in points if not point.chain]


class RemoteHost(Host):
    """A Host whose workspaces live in a worker; see cowfs.host for every method.

    When the worker ends by itself, no workspace is open any more, and calls wait for the next one, which ``start``
    makes: the engine opens workspaces again when it needs them, and their journals are replayed.
    """

    def __init__(
        self, env: Env, start: Callable[[Callable[[], None]], WorkerProcess], on_loss: Callable[[RemoteHost], None]
    ) -> None:
        """``start(on_end)`` makes a worker. ``on_loss`` is called when one has ended by itself, and is reaped."""
        super().__init__(env)
        self._start = start
        self._on_loss = on_loss
        self._settling = threading.Lock()
        self._changed = threading.Condition()
        self._worker: WorkerProcess | None = None
        self._opened: set[str] = set()
        self._closed = False
        self.replace()

    def replace(self) -> None:
        """Start a worker in the place of one that has ended. Raises what its start failed with."""
        with self._changed:
            if self._closed:
                raise _gone()
            old, self._worker = self._worker, None
        if old is not None:
            old.close()
        new = self._start(self._ended)
        with self._changed:
            self._worker = new
            self._changed.notify_all()

    def wait_started(self) -> None:
        """Return when the worker serves. Raises what its start failed with."""
        worker = self._worker
        if worker is not None:
            worker.wait_started()

    @property
    def code(self) -> int | None:
        """How the worker ended, as ``Popen.returncode``; None while it has not."""
        worker = self._worker
        return None if worker is None else worker.code

    def _ended(self) -> None:
        with self._changed:
            self._opened.clear()
            closed = self._closed
        if not closed:
            self._on_loss(self)

    @property
    def process(self) -> WorkerProcess | None:
        """The worker; None while there is none."""
        return self._worker

    @property
    def failed(self) -> bool:
        """Whether the worker has said why it cannot serve."""
        worker = self._worker
        return worker is not None and worker.failed

    @property
    def started(self) -> bool:
        """Whether there is a worker that answers."""
        worker = self._worker
        return worker is not None and worker.started

    def hang_up(self) -> None:
        """Let the worker begin to end."""
        self.give_up()
        worker = self._worker
        if worker is not None:
            worker.hang_up()

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return None if worker is None else worker.pid

    def call(self, name: str, *arguments: object, workspaces: Iterable[str] = ()) -> Any:
        """A call of the worker, waiting for one to start if need be. Raises Busy when it ends meanwhile.

        ``workspaces``: those that must be open; in a new worker they are not.
        """
        return self._serving(workspaces).call(name, *arguments)

    def _serving(self, workspaces: Iterable[str] = ()) -> WorkerProcess:
        """The worker, once it is there, in which ``workspaces`` are open."""
        with self._changed:
            live = self._changed.wait_for(lambda: self._closed or self._live(), START_SECONDS)
            worker = self._worker
            if self._closed:
                raise Busy("no worker serves the store any more", hint="see the log of the daemon, then start it anew")
            if not live or worker is None or not self._opened.issuperset(workspaces):
                raise _gone()
            return worker

    def _live(self) -> bool:
        return self._worker is not None and self._worker.live

    def give_up(self) -> None:
        """No worker will come: calls fail at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def shut(self) -> int:
        """End the worker; its exit code."""
        self.hang_up()
        worker = self._worker
        return 0 if worker is None else worker.close()

    def is_open(self, workspace: str) -> bool:
        """See Host.is_open."""
        return workspace in self._opened

    def opened(self) -> list[str]:
        """See Host.opened."""
        return list(self._opened)

    def serving(self, workspace: str) -> bool:
        """See Host.serving."""
        return self.is_open(workspace) and bool(self.call("serving", workspace))

    def release(self, workspace: str) -> Handed | None:
        """Have a workspace closed, its mount left as it is; what another worker needs to go on. Raises Busy."""
        handed: Handed | None = self.call("release", workspace, workspaces=(workspace,))
        with self._changed:
            self._opened.discard(workspace)
        return handed

    def open(self, spec: BranchSpec, known: Mapping[str, LayerSpec]) -> Done:
        """See Host.open."""
        worker = self._serving()
        done: Done = worker.call("open", spec, dict(known))
        with self._changed:
            if self._worker is not worker or not worker.live:
                raise _gone()  # it has ended since it answered: in its successor nothing is open
            self._opened.add(spec.id)
        return done

    def close(self, workspace: str) -> None:
        """See Host.close."""
        with self._changed:
            self._opened.discard(workspace)
        self.call("close", workspace)

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Done:
        """See Host.checkpoint."""
        done: Done = self.call("checkpoint", workspace, order, workspaces=(workspace,))
        return done

    def freeze(self, workspace: str, live: str) -> Done:
        """See Host.freeze."""
        done: Done = self.call("freeze", workspace, live, workspaces=(workspace,))
        return done

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool,
        request: Request | None = None, closed: bytes = b"",
    ) -> Done:  # fmt: skip
        """See Host.restore."""
        done: Done = self.call(
            "restore", workspace, snapshot, chain, live, undo, force, request, closed, workspaces=(workspace,)
        )
        return done

    def remove_path(self, workspace: str, token: str, path: bytes | None) -> Part:
        """See Host.remove_path."""
        done: Part = self.call("remove_path", workspace, token, path, workspaces=(workspace,))
        return done

    def clone_path(self, workspace: str, token: str, paths: tuple[bytes, bytes] | None) -> Part:
        """See Host.clone_path."""
        done: Part = self.call("clone_path", workspace, token, paths, workspaces=(workspace,))
        return done

    def wants_freeze(self) -> list[str]:
        """See Host.wants_freeze."""
        return list(self.call("wants_freeze"))

    def settled(self, layer_id: str, root: bytes, contents: Iterable[tuple[int, Content]]) -> None:
        """See Host.settled; one layer at a time."""
        with self._settling:
            pairs = iter(contents)
            while piece := tuple(itertools.islice(pairs, CONTENTS_PER_MESSAGE)):
                self.call("contents", layer_id, piece)
            self.call("settled", layer_id, root)

    def stall(self, layers: Iterable[str]) -> None:
        """See Host.stall."""
        self.call("stall", tuple(layers))

    def forget(self, layers: Iterable[str]) -> None:
        """See Host.forget."""
        self.call("forget", tuple(layers))

    def forget_segments(self, segments: Iterable[int]) -> None:
        """See Host.forget_segments."""
        self.call("forget_segments", tuple(segments))

    def unnamed(self) -> list[bytes]:
        """See Host.unnamed."""
        return list(self.call("unnamed"))

    def shown(self) -> dict[str, bytes]:
        """See Host.shown."""
        return dict(self.call("shown"))

    def limit(self, workspace: str, quota: Quota) -> None:
        """See Host.limit."""
        self.call("limit", workspace, quota, workspaces=(workspace,))

    def usage(self, workspace: str) -> tuple[int, int]:
        """See Host.usage."""
        used, inodes = self.call("usage", workspace, workspaces=(workspace,))
        return used, inodes

    def diff(self, old: Point, new: Point, horizon: int, limit: int | None = None) -> list[Change]:
        """See Host.diff."""
        return list(self.call("diff", old, new, horizon, limit, workspaces=_live(old, new)))

    def read(self, point: Point, path: bytes, offset: int, size: int) -> tuple[bytes, int]:
        """See Host.read."""
        data, whole = self.call("read", point, path, offset, size, workspaces=_live(point))
        return data, whole

    def statistics(self) -> dict[str, WorkspaceStatistics]:
        """See Host.statistics."""
        found: dict[str, WorkspaceStatistics] = self.call("statistics")
        return found
