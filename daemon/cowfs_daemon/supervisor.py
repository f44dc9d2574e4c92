"""The owner of a store: serves the HTTP API on the store's socket until it is told to stop.

One trio thread runs the server; verbs run in threads of ``cowfs_daemon.api.verbs``. Signals SIGTERM and SIGINT stop
it as ``daemon stop --force`` does.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

import cowfs
from cowfs.errors import Conflict
from cowfs.results import Scrubbed
from cowfs_daemon.api.app import create_app
from cowfs_daemon.api.shapes import rfc3339
from cowfs_daemon.api.verbs import Verbs
from cowfs_daemon.disks import Disks
from cowfs_daemon.keeper import BEAT_SECONDS
from cowfs_daemon.ports import Parts, Progress
from cowfs_daemon.succession import check_installed

log = logging.getLogger("cowfs.supervisor")
IDLE_SECONDS = 600
GRACE_SECONDS = 2.0


class Daemon:
    """The Control of the API."""

    def __init__(self, parts: Parts, started_at_ns: int, disks: Disks) -> None:
        self._parts = parts
        self._disks = disks
        self._started_at = rfc3339(started_at_ns)
        self._stopping = trio.Event()
        self.renewing = False

    def status(self) -> dict[str, Any]:
        supervisor = {"pid": os.getpid(), "version": cowfs.__version__, "started_at": self._started_at}
        return {"supervisor": supervisor, **self._parts.details()}

    def stop(self, force: bool) -> None:
        self._disks.detach_all(force, lambda: self._parts.detach_all(force))
        self._parts.unlisten()
        trio.from_thread.run_sync(self._stopping.set)

    def restart(self, keeper: bool) -> dict[str, Any]:
        if self._parts.supervised.descriptor is None:
            raise Conflict("without a keeper, mounts cannot outlive this process")
        found = check_installed()
        told = self._parts.supervised.renew() if keeper else None
        self.renewing = True
        self._parts.unlisten()
        trio.from_thread.run_sync(self._stopping.set)
        return {"version": found["version"], "keeper": told}

    def give_way(self) -> None:
        """Be replaced by the installed code, since its workers do not understand this one. In the trio thread."""
        log.warning("the installed cowfs is another one than this, %s: giving way to it", cowfs.__version__)
        self.renewing = True
        self._parts.unlisten()
        self._stopping.set()

    def scrub(self, rate: int, progress: Progress) -> Scrubbed:
        return self._parts.scrub(rate, progress)

    async def wait_stopping(self) -> None:
        await self._stopping.wait()


async def supervise(sock: socket.socket, parts: Parts, ready: Callable[[], None], signals: bool = True) -> bool:
    """Serve the API on the listening socket ``sock`` until stopped; ``ready`` is called when it answers.

    ``signals``: stop on SIGTERM and SIGINT, too; only possible in the main thread. True: to be replaced, not stopped.
    """
    disks = Disks(parts.engine, parts.mounts)
    disks.recover()
    daemon = Daemon(parts, time.time_ns(), disks)
    verbs = Verbs(parts.engine, parts.mounts, daemon, time.time_ns, parts.changed, parts.samples, disks)
    config = Config()
    # Hypercorn closes the descriptor it is given.
    config.bind = [f"fd://{os.dup(sock.fileno())}"]
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = 1 << 40
    config.graceful_timeout = GRACE_SECONDS
    config.loglevel = "WARNING"
    config.include_date_header = False
    config.include_server_header = False

    async def stopping() -> None:
        await daemon.wait_stopping()
        verbs.close_events()

    async def beating() -> None:
        while True:
            parts.supervised.beat()
            if parts.outdated() and not daemon.renewing:
                daemon.give_way()
            await trio.sleep(BEAT_SECONDS)

    async with trio.open_nursery() as nursery:
        if signals:
            nursery.start_soon(_stop_on_signal, daemon)
        nursery.start_soon(beating)
        # Hypercorn's own types for ASGI messages are narrower than the protocol's.
        app: Any = create_app(verbs, cowfs.__version__)
        await serve(app, config, shutdown_trigger=stopping, task_status=Started(ready))
        nursery.cancel_scope.cancel()
    return daemon.renewing


class Started(trio.TaskStatus[Any]):
    """Hypercorn says here when it listens."""

    def __init__(self, ready: Callable[[], None]) -> None:
        self._ready = ready

    def started(self, value: Any = None) -> None:
        self._ready()


async def _stop_on_signal(daemon: Daemon) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            await trio.to_thread.run_sync(daemon.stop, True)
