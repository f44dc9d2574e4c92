"""How requests reach the engine: in threads, at most 16 at once (and 4 imports), one verb at a time per workspace.

All of it runs on the trio thread, except what ``run`` hands to a thread. The lock of a workspace is held from
before the thread starts until it has ended, also when the client goes away meanwhile: a verb is never cut short.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, TypeVar

import trio

from cowfs.errors import CowfsError
from cowfs.remembered import Request
from cowfs.settle.process import SettlerDied
from cowfs_daemon.api.failures import as_cowfs_error, error_line
from cowfs_daemon.api.shapes import rfc3339
from cowfs_daemon.disks import Disks
from cowfs_daemon.metrics import Sample, VerbTimes, render
from cowfs_daemon.ports import Control, EngineLike, MountsLike, Progress, WorkerGone

T = TypeVar("T")
MAX_THREADS = 16
MAX_IMPORTS = 4
MAX_UNREAD_EVENTS = 1000
AGAIN_SECONDS = 30.0
"""How long a request with a key is tried again, from its first failure on, while processes are replaced."""

_AGAIN_PAUSE_SECONDS = 0.05


class Verbs:
    """The engine, the mounts, the disks and the daemon, as the routes see them. ``clock_ns``: ns since the epoch.

    ``changed`` is called after every verb that may have frozen a layer.
    """

    def __init__(
        self,
        engine: EngineLike,
        mounts: MountsLike,
        control: Control,
        clock_ns: Callable[[], int],
        changed: Callable[[], None],
        samples: Callable[[], Iterable[Sample]],
        disks: Disks,
    ) -> None:
        self.engine = engine
        self.mounts = mounts
        self.disks = disks
        self.control = control
        self._clock_ns = clock_ns
        self._changed = changed
        self._samples = samples
        self._times = VerbTimes()
        self._cut = 0
        self._limiter = trio.CapacityLimiter(MAX_THREADS)
        self._imports = trio.CapacityLimiter(MAX_IMPORTS)
        self._locks: dict[str, tuple[trio.Lock, int]] = {}
        self._listeners: set[trio.MemorySendChannel[dict[str, Any]]] = set()

    async def run(
        self,
        work: Callable[..., T],
        *arguments: Any,
        locks: tuple[str, ...] = (),
        limiter: trio.CapacityLimiter | None = None,
        asked: Request | None = None,
    ) -> T:
        """Call ``work`` in a thread while holding the locks of the workspaces ``locks``.

        With ``asked``, whatever has the same key takes its turn, and ``work`` is called again when a process that it
        needs died meanwhile: it must be one that can be. Raises CowfsError only.
        """
        if asked is None:
            return await self._run(work, *arguments, locks=locks, limiter=limiter)
        until = None
        while True:
            try:
                return await self._run(work, *arguments, locks=(*locks, "\0" + asked.key), limiter=limiter)
            except (WorkerGone, SettlerDied):
                now = trio.current_time()
                until = now + AGAIN_SECONDS if until is None else until
                if now > until:
                    raise
                await trio.sleep(_AGAIN_PAUSE_SECONDS)

    async def once(
        self, verb: str, asked: Request | None, work: Callable[[], Any], locks: tuple[str, ...]
    ) -> tuple[Any, bool]:
        """(result of ``work``, True), or (its result when it was done before for the same request, False).

        ``work`` is a verb that keeps its result under ``asked``. Raises Conflict when the key was used for another.
        """

        def attempt() -> tuple[Any, bool]:
            known = self.engine.keys.find(asked)
            return (work(), True) if known is None else (known, False)

        attempt.__name__ = verb  # by which its times are counted
        return await self.run(attempt, locks=locks, asked=asked)

    async def _run(
        self, work: Callable[..., T], *arguments: Any, locks: tuple[str, ...], limiter: trio.CapacityLimiter | None
    ) -> T:
        held: list[str] = []
        try:
            for name in sorted(set(locks)):
                lock, users = self._locks.get(name) or (trio.Lock(), 0)
                self._locks[name] = (lock, users + 1)
                held.append(name)
                await lock.acquire()
            return await trio.to_thread.run_sync(self._timed, work, arguments, limiter=limiter or self._limiter)
        except Exception as error:
            raise as_cowfs_error(error) from error
        finally:
            for name in held:
                lock, users = self._locks.pop(name)
                if users > 1:
                    self._locks[name] = (lock, users - 1)
                if lock.statistics().owner is trio.lowlevel.current_task():
                    lock.release()

    def _timed(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        began, code = perf_counter(), ""
        try:
            return work(*arguments)
        except BaseException as error:
            code = error.code if isinstance(error, CowfsError) else CowfsError.code
            raise
        finally:
            self._times.took(getattr(work, "__name__", ""), perf_counter() - began, code)

    def metrics(self) -> str:
        """Every figure, as Prometheus reads them; may block."""
        listeners: list[Sample] = [
            ("cowfs_listeners", {}, len(self._listeners)),
            ("cowfs_listeners_cut_total", {}, self._cut),
        ]
        return render([*self._samples(), *self._times.samples(), *listeners])

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the settler and every listener. A listener that has not read its last 1000 events is cut off."""
        self._changed()
        value = {"event": event, "at": rfc3339(self._clock_ns()), **fields}
        for channel in list(self._listeners):
            try:
                channel.send_nowait(value)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.discard(channel)
                self._cut += 1
                channel.close()

    async def events(self) -> AsyncIterator[bytes]:
        """Events from now on, one JSON object a line; ends when the listener is cut off."""
        sender, receiver = trio.open_memory_channel[dict[str, Any]](MAX_UNREAD_EVENTS)
        self._listeners.add(sender)
        try:
            yield b'{"event": "listening", "at": "%s"}\n' % rfc3339(self._clock_ns()).encode()
            async for value in receiver:
                yield json.dumps(value).encode() + b"\n"
        finally:
            self._listeners.discard(sender)
            sender.close()
            receiver.close()

    def close_events(self) -> None:
        """End every listener's stream, so that the server can end."""
        while self._listeners:
            self._listeners.pop().close()

    async def pieces(self, first: bytes | None, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
        """``first``, then what the blocking iterator ``rest`` gives."""
        piece = first
        while piece is not None:
            yield piece
            piece = await self.run(next, rest, None)

    async def lines(
        self, work: Callable[[Progress], dict[str, Any]], *locks: str, asked: Request | None = None
    ) -> AsyncIterator[bytes]:
        """Run ``work(progress)`` in a thread, holding the locks of the workspaces ``locks``; ``asked`` as for ``run``.

        Lines ``{"progress": …}`` as it calls back, then its result. A failure is the last line, ``{"error": …}``,
        since the answer has begun by then.
        """
        sender, receiver = trio.open_memory_channel[bytes](64)
        token = trio.lowlevel.current_trio_token()

        def progress(value: dict[str, Any]) -> None:
            # Any thread may call, also one that the engine has made.
            line = json.dumps({"progress": value}).encode() + b"\n"
            token.run_sync_soon(_offer, sender, line)

        async def job() -> None:
            with sender:
                try:
                    result = await self.run(work, progress, locks=locks, limiter=self._imports, asked=asked)
                    line = json.dumps(result).encode() + b"\n"
                except Exception as error:
                    line = error_line(error)
                await sender.send(line)

        trio.lowlevel.spawn_system_task(_shielded, job)
        with receiver:
            async for line in receiver:
                yield line


def _offer(sender: trio.MemorySendChannel[bytes], line: bytes) -> None:
    """Progress is for showing: dropped when nobody reads it fast enough, or at all."""
    try:
        sender.send_nowait(line)
    except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _shielded(job: Callable[[], Any]) -> None:
    try:
        await job()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
