"""One mounted workspace: reads requests, answers them, and tells the kernel what changed.

Concurrency: the reader holds ``workspace.lock`` from loading ``workspace.view`` until the reply has been
written, so that after a swap of views no reply from the old one can follow. fsync waits outside the lock,
in a worker; its reply carries nothing of a view. Notifications are written by :mod:`.transport`, by threads
that hold no lock and serve no request.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from cowfs.errors import CowfsError
from cowfs.layers.answers import Answer
from cowfs.owners import Owners
from cowfs.pressure import Pressed
from cowfs.view.view import View
from cowfs_daemon.fuse import ids, mount, pacing, protocol, resent
from cowfs_daemon.fuse.counts import Counts
from cowfs_daemon.fuse.dispatch import HANDLERS, Reply
from cowfs_daemon.fuse.mount import Connection
from cowfs_daemon.fuse.pacing import Pacing, PacingStatistics
from cowfs_daemon.fuse.served import Served
from cowfs_daemon.fuse.server import Reader, Server
from cowfs_daemon.pulse import Progress

log = logging.getLogger("cowfs.fuse")

SAMPLED = 64
"""One request in so many is timed, and is the occasion to see whether settling lags behind."""

LOOK_S = 0.02
"""Seconds between two such looks, at least."""

_HELD_IDLE_S = 0.002
"""Seconds without a request after which what waits for a listing is answered: the listing may be waiting itself."""

_SPIN_CREDIT = 8
"""Fruitless spins in a row before a mount stops spinning, until spinning would have paid again."""

_TAKEN_S = 0.001
"""A spin that ended so much later than it should: another program had the processor, and spinning was for nothing."""

_SPIN_PAUSE = 256
"""So many sleeps that were shorter than a spin have to follow before the next one, then."""


class ServedWorkspace(Protocol):
    """What a session needs of ``cowfs.workspace.Workspace``."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Covers the view and its swap."""

    @property
    def view(self) -> View:
        """The filesystem state to serve; loaded anew for every request."""

    def answer(self, connection: int, unique: int) -> Answer | None:
        """What the answer to a request that comes again needs, if it was carried out; called under the lock."""

    def sync(self) -> None:
        """Make the journal durable; called without the lock."""

    def pressed(self) -> Pressed | None:
        """What a change costs now; None: nothing. Called with or without the lock."""


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """``known``: inodes the kernel may ask for by number; ``opens``, ``writers``: open files."""

    requests: int
    known: int
    opens: int
    writers: int
    ended: bool
    pacing: PacingStatistics


class Session:
    """Serves one connection from a workspace. ``complete``: no other process served it before.

    ``on_end`` is called once, by a reader, when the mount went by itself: unmounted by somebody, or aborted
    (not when ``ending`` says that its owner is unmounting it). ``ended`` is set in both cases.
    """

    def __init__(
        self,
        server: Server,
        connection: Connection,
        workspace: ServedWorkspace,
        *,
        refresh: Callable[[int], None],
        flush: Callable[[int], None] | None = None,
        list_ahead: Callable[[int, int, int], bool] = lambda directory, cookie, names: False,
        complete: bool = True,
        on_end: Callable[[], None] | None = None,
        owners: Owners | None = None,
    ) -> None:
        self.fd = connection.fd
        self.connection = connection
        self.workspace = workspace
        self.served = Served(
            connection.connection_id, connection.init, complete=complete, sync_later=self._sync_later, refresh=refresh,
            flush_first=self._flush_first, list_ahead=list_ahead, owners=owners,
        )  # fmt: skip
        self._flush = flush
        self._server = server
        self._on_end = on_end
        self._stopping = False
        self._spin_credit = _SPIN_CREDIT
        self._requests = self._answered = 0
        self.counts = Counts()
        self.pacing = Pacing(self._look, self._carry_out)
        self._pressed: Pressed | None = None
        self._looked = 0.0
        self._jobs = self._asking = 0
        self._jobs_done = threading.Condition()
        self.ended = threading.Event()
        self.ending = False

    def start(self) -> None:
        """Begin to answer, or go on after :meth:`stop`."""
        self._stopping = False
        self._server.add(self)

    def stop(self) -> None:
        """Stop answering (the kernel queues requests, callers wait): for hand-over, or after unmounting."""
        with self._jobs_done:
            self._jobs_done.wait_for(lambda: not self._asking)
            self._stopping = True
        self._server.remove(self)
        self.pacing.drain()
        with self._jobs_done:
            self._jobs_done.wait_for(lambda: not self._jobs)

    def close(self) -> None:
        """After :meth:`stop`, for good: let go of what holds this in turn, so that it goes with its last user."""
        self.served.end()
        self.pacing.end()
        self._flush = None

    def settle(self) -> None:
        """Wait for the jobs under way that use the mount."""
        with self._jobs_done:
            self._jobs_done.wait_for(lambda: not self._asking)

    def submit(self, job: Callable[[], None], *, asking: bool = False) -> bool:
        """Run ``job`` in a worker; its errors are logged, and :meth:`stop` waits for it.

        ``asking``: it uses the mount, so that requests must be answered meanwhile; not run, and False, when stopping.
        """
        if not self.begin_job(asking=asking):
            return False

        def run() -> None:
            try:
                job()
            except Exception:
                log.exception("a background job for %s failed", self.connection.mountpoint)
            finally:
                self.end_job(asking=asking)

        self._server.submit(run)
        return True

    def begin_job(self, *, asking: bool) -> bool:
        """What :meth:`submit` does is begun elsewhere; False: it is not to be. Else :meth:`end_job` follows."""
        with self._jobs_done:
            if asking and self._stopping:
                return False
            self._jobs += 1
            self._asking += asking
        return True

    def end_job(self, *, asking: bool) -> None:
        """It is done."""
        with self._jobs_done:
            self._jobs -= 1
            self._asking -= asking
            self._jobs_done.notify_all()

    def statistics(self) -> SessionStatistics:
        """Counts of this moment."""
        served = self.served
        opens, writers = sum(served.opens.values()), sum(served.writers.values())
        ended, waiting = self.ended.is_set(), self.pacing.statistics()
        return SessionStatistics(self.counts.total, len(served.lookups), opens, writers, ended, waiting)

    def serve(self, reader: Reader) -> bool:
        """Answer requests in the calling thread; see :class:`.server.Served`."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        poller.register(reader.wake, select.POLLIN)
        request, workspace = reader.request, self.workspace
        fd, buffers, lock, owners = self.fd, [request], workspace.lock, self.served.owners
        readv, answer, paced, ahead, number = os.readv, self._answer, self.pacing, self.served.ahead, 0
        while not self._stopping:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                held = ahead.waiting
                if self._wait(poller, _HELD_IDLE_S if held else self._server.idle_s):
                    continue
                if not held:
                    return not self._stopping
                self.answer_held(all_of_them=True)
                continue
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                self._end()
                if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                    raise
                return False
            self._requests += 1
            number += 1
            if owners is not None:
                ids.take(owners, request, size, self.served.setxattr_ext)
            if (self._pressed is None and not paced.holds) or not self._waits(request, size):
                if number % SAMPLED:
                    with lock:
                        answer(workspace.view, request, size)
                else:
                    self._sample(request, size)
            if ahead.waiting:
                self.answer_held()
            self._answered = self._requests
        return False

    def progress(self) -> Progress:
        """How far it is; for the watchdog, which compares. Jobs that wait for a disk do not count (those that wait for
        this mount do), nor does what is held back so that settling can catch up."""
        requests = self._requests
        if self._stopping or self.ended.is_set():
            return Progress(requests, False)
        held = self._jobs > self._asking or self.pacing.statistics().waiting
        return Progress(requests, requests != self._answered or (not held and self._unread()))

    def _unread(self) -> bool:
        """Whether the kernel has requests that nobody has answered."""
        return bool(mount.waiting(self.connection.number))

    def _sample(self, request: bytearray, size: int) -> None:
        """Answer a request, time that, and look whether settling lags behind."""
        began = perf_counter()
        with self.workspace.lock:
            self._answer(self.workspace.view, request, size)
        ended = perf_counter()
        self.counts.time(protocol.header(request)[1], ended - began)
        if ended - self._looked > LOOK_S:
            self._look()

    def _look(self) -> Pressed | None:
        self._looked = perf_counter()
        self._pressed = self.workspace.pressed()
        return self._pressed

    def _waits(self, request: bytearray, size: int) -> bool:
        """Whether a request need not be answered now: it is carried out later, or was refused."""
        pressed = self._pressed if perf_counter() - self._looked < LOOK_S else self._look()
        if size < protocol.HEADER_BYTES:
            return False
        _, opcode, unique, nodeid = protocol.header(request)
        if opcode == protocol.INTERRUPT:
            for waiting in self.pacing.take(protocol.interrupted(request, size)):
                self._carry_out(waiting)
            return False
        if unique & protocol.UNIQUE_RESEND or not pacing.changes(opcode, request, size):
            return False  # what comes again may have been carried out: then it must be answered
        if pressed is None:
            return self._in_turn(nodeid)
        if pressed.refuse and opcode in pacing.GROWS and self.pacing.refuse():
            self.served.unwritten += opcode == protocol.WRITE
            with contextlib.suppress(FileNotFoundError):
                os.write(self.fd, protocol.error(unique, errno.ENOSPC))
            return True
        cached = opcode == protocol.WRITE and protocol.is_cached_write(request, size)
        if not self.pacing.admit(request, size, unique, pacing.cost(pressed, size), cached):
            return True
        return self._in_turn(nodeid)

    def _in_turn(self, ino: int) -> bool:
        """Carry out what waits for an inode, before another request about it is answered at once: False."""
        if self.pacing.holds:
            for waiting in self.pacing.ahead(ino):
                self._carry_out(waiting)
        return False

    def answer_held(self, *, all_of_them: bool = False) -> None:
        """Answer what waited for a listing of its directory, see :mod:`.ahead`; called without the lock."""
        ahead = self.served.ahead
        with self.workspace.lock:
            ahead.holds = False
            try:
                for request in ahead.take(all_of_them=all_of_them):
                    self.counts.requests[protocol.LOOKUP] -= 1  # It was counted when it came.
                    self._answer(self.workspace.view, request, len(request))
            finally:
                ahead.holds = True

    def _carry_out(self, request: bytearray) -> None:
        with self.workspace.lock:
            self._answer(self.workspace.view, request, len(request))

    def _answer(self, view: View, request: bytearray, size: int) -> None:
        length, opcode, unique, nodeid = protocol.header(request)
        try:
            protocol.check_header(size, length)
            known = opcode if opcode < protocol.OPCODES else 0
            self.counts.requests[known] += 1
            handler = HANDLERS[known]
            reply: Reply = None
            if unique & protocol.UNIQUE_RESEND:
                reply = self._answer_again(view, request, size, unique, nodeid, opcode)
            if reply is None:
                reply = handler(self.served, view, request, size, unique, nodeid)
        except OSError as error:
            reply = protocol.error(unique, error.errno or errno.EIO)
        except CowfsError as error:
            log.error("request %d on inode %d: %s", opcode, nodeid, error, extra=self._where())
            reply = protocol.error(unique, error.errno)
        except Exception:
            log.exception("request %d on inode %d failed", opcode, nodeid, extra=self._where())
            reply = protocol.error(unique, errno.EIO)
        if reply is None or opcode in _UNANSWERED:
            return
        try:
            if isinstance(reply, tuple):
                os.writev(self.fd, reply)
            else:
                owners = self.served.owners
                os.write(self.fd, reply if owners is None else ids.give(owners, request, size, opcode, reply))
        except OSError as error:
            # ENOENT: nobody waits for this reply any more; ENODEV: the next read tells.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel refused the reply to request %d: %s", opcode, error)
                with contextlib.suppress(OSError):
                    os.write(self.fd, protocol.error(unique, errno.EIO))

    def _answer_again(
        self, view: View, request: bytearray, size: int, unique: int, nodeid: int, opcode: int
    ) -> bytes | None:
        """The answer to a request that comes again and was carried out before; None: it was not."""
        known = self.workspace.answer(self.connection.connection_id, unique & ~protocol.UNIQUE_RESEND)
        if known is None:
            return None
        return resent.answer(self.served, view, request, size, unique, nodeid, opcode, known)

    def _wait(self, poller: select.poll, idle_s: float) -> bool:
        """Wait for a request: spin for a moment, then sleep. False when idle for so long or told to stop."""
        if self._spin_credit > 0:
            until = perf_counter() + self._server.spin_s
            while (now := perf_counter()) < until:
                if poller.poll(0):
                    self._spin_credit = _SPIN_CREDIT
                    return not self._stopping
                os.sched_yield()
            self._spin_credit = -_SPIN_PAUSE if now - until > _TAKEN_S else self._spin_credit - 1
        began = perf_counter()
        events = poller.poll(idle_s * 1000)
        if perf_counter() - began < self._server.spin_s:
            self._spin_credit = _SPIN_CREDIT if self._spin_credit >= 0 else self._spin_credit + 1
        return bool(events) and not self._stopping

    def _sync_later(self, unique: int) -> None:
        def job() -> None:
            number = 0
            try:
                self.workspace.sync()
            except (OSError, CowfsError) as error:
                log.error("%s: fsync failed: %s", self.connection.mountpoint, error, extra=self._where())
                number = error.errno or errno.EIO
            except Exception:
                log.exception("%s: fsync failed", self.connection.mountpoint)
                number = errno.EIO
            with contextlib.suppress(FileNotFoundError):
                os.write(self.fd, protocol.error(unique, number))

        self.submit(job)

    def _flush_first(self, request: bytearray, ino: int) -> bool:
        """Answer a request when the inode has been flushed; False: it is to be answered now."""
        flush = self._flush
        if flush is None:
            return False
        _, opcode, unique, _ = protocol.header(request)

        def job() -> None:
            with contextlib.suppress(OSError):  # What cannot be written is told to who maps and syncs it.
                flush(ino)
            with self.workspace.lock:
                self.served.flushed = unique
                self.counts.requests[opcode] -= 1  # It was counted when it came.
                self._answer(self.workspace.view, request, len(request))

        return self.submit(job, asking=True)

    def _where(self) -> dict[str, str]:
        return {"workspace": os.path.basename(self.connection.mountpoint)}

    def _end(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            if self._on_end is not None and not self.ending:
                self._on_end()


_UNANSWERED = frozenset((protocol.FORGET, protocol.BATCH_FORGET, protocol.INTERRUPT, protocol.DESTROY))
