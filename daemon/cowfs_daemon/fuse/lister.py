"""Has directories listed by a process of its own (:mod:`.listing`), for all mounts of this process."""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cowfs_daemon.fuse import listing

KEPT_S = 60.0
"""For how long process and thread are kept when nothing is to be listed, and not tried again when they failed."""

START_S = 5.0
"""In which the process has to become ready."""

LISTING_S = 2.0
"""A listing that takes longer is given up, and the process killed: a program can hold a directory's lock for ever."""

log = logging.getLogger("cowfs.fuse")


class Wanted(NamedTuple):
    """What is to be listed. ``root``: a descriptor of the mount's root, closed here; ``path``: from there, or empty
    where inodes can be opened by number. ``done(cookie reached, 0, an errno or listing.END)`` is called by a thread.
    """

    root: int
    ino: int
    generation: int
    path: bytes
    cookie: int
    size: int
    done: Callable[[int, int], None]


class Process:
    """The process, and the socket to it. Raises OSError when it cannot be started."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-I", "-S", listing.__file__, str(theirs.fileno())]
        with theirs:
            try:
                self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            except BaseException:
                self._socket.close()
                raise

    def ask(self, number: int, wanted: Wanted) -> None:
        """Returns at once. Raises OSError."""
        head = listing.REQUEST.pack(number, wanted.ino, wanted.cookie, wanted.generation, wanted.size)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [wanted.root]))
        self._socket.sendmsg([head + wanted.path], [rights], socket.MSG_DONTWAIT)

    def reply(self, timeout_s: float) -> tuple[int, int, int] | None:
        """The next one: number of the request, cookie, state; None when there is none for so long. Raises OSError."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return None
        reply = self._socket.recv(listing.REPLY.size)
        if len(reply) != listing.REPLY.size:
            raise ConnectionResetError(errno.ECONNRESET, "the process that lists has ended")
        number, reached, state = listing.REPLY.unpack(reply)
        return number, reached, state

    def interrupt(self) -> None:
        """Nothing can be asked any more; :meth:`reply` fails."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Kill it: it has nothing to lose. Its thread may still wait for an answer, which others give."""
        self._process.kill()
        self._socket.close()
        self._process.wait()


class Lister:
    """Starts the process when there is something to list, and ends it when there was nothing for a while.

    A thread starts it (the kernel kills it when that thread ends), and takes replies. ``forking`` is held meanwhile.
    """

    def __init__(self) -> None:
        self.forking = threading.Lock()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, tuple[Wanted, float]] = {}
        self._starting: Process | None = None
        self._process: Process | None = None
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._closed = False

    def ready(self) -> bool:
        """Whether :meth:`list` would say yes; else what that takes is begun."""
        with self._lock:
            if self._process is not None:
                return len(self._under_way) < listing.AT_ONCE
            if self._thread is None and not self._closed and time.monotonic() >= self._not_before:
                thread = threading.Thread(target=self._run, name="cowfs-lister", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # no thread can be started
                    self._failed(error)
            return False

    def list(self, wanted: Wanted) -> bool:
        """Have something listed, and return; False: not now (the descriptor is closed, nothing is called)."""
        try:
            with self._lock:
                if self._process is None or len(self._under_way) >= listing.AT_ONCE:
                    return False
                number = next(self._numbers)
                self._process.ask(number, wanted)
                self._under_way[number] = wanted, time.monotonic()
                return True
        except OSError as error:  # it has ended, as the thread finds out
            log.debug("%s", error)
            return False
        finally:
            os.close(wanted.root)

    def close(self) -> None:
        """End thread and process. Nothing may be under way."""
        with self._lock:
            self._closed = True
            for process in (self._starting, self._process):
                if process is not None:
                    process.interrupt()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _failed(self, error: Exception) -> None:
        self._not_before = time.monotonic() + KEPT_S
        log.warning("directories are not listed ahead for %g s: %s", KEPT_S, error)

    def _run(self) -> None:
        process: Process | None = None
        replied = False
        try:
            process = self._started()
            while self._take(process):
                replied = True
        except Exception as error:  # whatever it is: who waits for a listing, waits for `done`
            with self._lock:
                if not self._closed and not (replied and isinstance(error, ConnectionError)):
                    self._failed(error)
        finally:
            with self._lock:
                self._starting = self._process = self._thread = None
                lost, self._under_way = self._under_way, {}
            if process is not None:
                process.end()
            for wanted, _ in lost.values():
                _done(wanted, 0, errno.EIO)

    def _started(self) -> Process:
        """The process, when it is ready. Raises OSError."""
        with self.forking:
            process = Process()
        with self._lock:
            self._starting = process
            if self._closed:
                process.interrupt()
        try:
            if process.reply(START_S) is None:
                raise TimeoutError(errno.ETIMEDOUT, "the process that lists has not become ready")
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._process = process
        return process

    def _take(self, process: Process) -> bool:
        """Take one reply; False: there was nothing to list for long. Raises OSError."""
        idle = time.monotonic() + KEPT_S
        while (reply := process.reply(LISTING_S)) is None:
            now = time.monotonic()
            with self._lock:
                if any(now - began > LISTING_S for _, began in self._under_way.values()):
                    raise TimeoutError(errno.ETIMEDOUT, "a directory cannot be listed")
                if not self._under_way and now > idle:
                    self._process = None
                    return False
        number, reached, state = reply
        with self._lock:
            wanted, _ = self._under_way.pop(number)
        _done(wanted, reached, state)
        return True


def _done(wanted: Wanted, reached: int, state: int) -> None:
    try:
        wanted.done(reached, state)
    except Exception:
        log.exception("what was listed could not be taken in")
