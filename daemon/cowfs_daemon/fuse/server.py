"""Threads that serve mounts: one poller for all idle mounts, a reader only where there is work.

Concurrency: at most one reader serves a mount at a time. An idle mount's descriptor waits in the poller's
epoll set (one-shot); when a request arrives the poller hands the mount to a reader, which keeps it until
nothing has arrived for about a second. Readers without a mount wait a while for the next, then end; each
owns one request buffer. Slow requests (fsync) go to a small pool of workers. Where no reader can be started, a mount
waits for a moment, and the poller goes on with the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from cowfs_daemon.fuse.lister import Lister
from cowfs_daemon.fuse.negotiate import REQUEST_BYTES

log = logging.getLogger("cowfs.fuse")

_READER_KEPT_S = 10.0
_WORKERS = 4
_PAUSE_S = 0.05
"""So long a mount waits where no reader could be started for it, before that is tried again."""


class Served(Protocol):
    """A mount, as the server sees it."""

    fd: int

    def serve(self, reader: Reader) -> bool:
        """Answer requests until idle (True) or until told to stop or the mount's end (False)."""


class Reader(threading.Thread):
    """A thread that serves one mount after another. ``wake``, an eventfd, ends its sleep when its mount is to stop."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="cowfs-reader", daemon=True)
        self.request = bytearray(REQUEST_BYTES)
        self._server = server
        self._given = threading.Condition()
        self._mount: Served | None = None
        self._ended = False
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def give(self, mount: Served) -> bool:
        """Serve ``mount`` next. False when this reader has ended."""
        with self._given:
            if self._ended:
                return False
            self._mount = mount
            self._given.notify()
            return True

    def interrupt(self) -> None:
        """Wake the reader from its sleep."""
        os.eventfd_write(self.wake, 1)

    def run(self) -> None:
        """Serve what is given until nothing comes for a while."""
        try:
            while (mount := self._next()) is not None:
                with contextlib.suppress(BlockingIOError):  # meant for the mount before, which was not asleep
                    os.eventfd_read(self.wake)
                try:
                    idle = mount.serve(self)
                except BaseException:
                    log.exception("serving a mount failed")
                    idle = False
                self._server._done(self, mount, idle)
        finally:
            self._server._ended(self)
            os.close(self.wake)

    def _next(self) -> Served | None:
        with self._given:
            if self._mount is None:
                self._given.wait_for(lambda: self._mount is not None or self._ended, _READER_KEPT_S)
            mount, self._mount = self._mount, None
            self._ended = mount is None
        return mount

    def end(self) -> None:
        """End when nothing is left to serve."""
        with self._given:
            self._ended = self._mount is None
            self._given.notify()


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """``mounts``: all; ``idle``: those that wait in the poller; ``readers``: threads, busy or not."""

    mounts: int
    idle: int
    readers: int


class Server:
    """Serves any number of mounts in this process. ``idle_s``, ``spin_s``: seconds, see :mod:`.session`."""

    def __init__(self, *, idle_s: float = 1.0, spin_s: float = 100e-6) -> None:
        self.idle_s = idle_s
        self.spin_s = spin_s
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._mounts: dict[int, Served] = {}
        self._serving: dict[int, Reader] = {}
        self._free: list[Reader] = []
        self._readers: set[Reader] = set()
        self._changed = threading.Condition(self._lock)
        self._workers = ThreadPoolExecutor(_WORKERS, "cowfs-fuse-job")
        self.lister = Lister()
        self._closed = False
        self._short = False  # no reader can be started
        self._thread = threading.Thread(target=self._poll, name="cowfs-poller", daemon=True)
        self._thread.start()

    def add(self, mount: Served) -> None:
        """Begin to serve ``mount``."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is closed")
            self._epoll.register(mount.fd, select.EPOLLIN | select.EPOLLONESHOT)
            self._mounts[mount.fd] = mount

    def remove(self, mount: Served) -> None:
        """Stop serving ``mount``: returns when no reader touches it. Called by another thread than a reader.

        ``mount.serve`` must see by itself (a flag set before) that it has to return False.
        """
        with self._lock:
            while self._mounts.get(mount.fd) is mount:
                reader = self._serving.get(mount.fd)
                if reader is None:
                    self._take_out(mount)
                    return
                reader.interrupt()
                self._changed.wait()

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Run a slow job in a worker."""
        return self._workers.submit(job)

    def close(self) -> None:
        """End all threads; every mount must have been removed, or have ended, before."""
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for reader in readers:
            reader.end()
            reader.join()
        self._workers.shutdown()
        self.lister.close()
        self._epoll.close()
        os.close(self._wake)

    def statistics(self) -> ServerStatistics:
        """Counts of this moment."""
        with self._lock:
            return ServerStatistics(len(self._mounts), len(self._mounts) - len(self._serving), len(self._readers))

    def _poll(self) -> None:
        again: float | None = None  # when to look again at mounts for which there was no reader
        while not self._closed:
            pause = None if again is None else max(again - time.monotonic(), 0.0)
            try:
                served = [self._give(fd) for fd, _ in self._epoll.poll(pause)]
                if again is not None and time.monotonic() >= again:
                    again = None
                    self._look_again()
            except MemoryError:  # which mounts have requests is forgotten
                served = [False]
            if again is None and not all(served):
                again = time.monotonic() + _PAUSE_S

    def _give(self, fd: int) -> bool:
        """Have a reader serve the mount of a descriptor; False: there are no threads, descriptors or memory for one."""
        with self._lock:
            mount = self._mounts.get(fd)
            if mount is None or fd in self._serving:
                return True
            try:
                self._start(mount)
            except (RuntimeError, OSError, MemoryError) as error:
                if not self._short:
                    log.error("no reader can be started, mounts wait for one: %s", error)
                self._short = True
                return False
            if self._short:
                log.info("readers can be started again")
            self._short = False
            return True

    def _look_again(self) -> None:
        with self._lock:
            for fd in self._mounts:
                if fd not in self._serving:
                    self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def _start(self, mount: Served) -> None:
        while self._free:
            reader = self._free.pop()
            if reader.give(mount):
                self._serving[mount.fd] = reader
                return
        reader = Reader(self)
        reader.give(mount)
        try:
            reader.start()
        except BaseException:
            os.close(reader.wake)
            raise
        self._serving[mount.fd] = reader
        self._readers.add(reader)

    def _done(self, reader: Reader, mount: Served, idle: bool) -> None:
        with self._lock:
            del self._serving[mount.fd]
            if idle:
                self._epoll.modify(mount.fd, select.EPOLLIN | select.EPOLLONESHOT)
            else:
                self._take_out(mount)
            self._free.append(reader)
            self._changed.notify_all()

    def _ended(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)
            if reader in self._free:
                self._free.remove(reader)

    def _take_out(self, mount: Served) -> None:
        self._epoll.unregister(mount.fd)
        del self._mounts[mount.fd]
