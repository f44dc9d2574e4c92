"""Has directories listed by a process of its own (:mod:`.listing`), one at a time, for all mounts of this process."""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple

from cowfs_daemon.fuse import listing

KEPT_S = 60.0
"""For how long process and thread are kept when nothing is to be listed."""

log = logging.getLogger("cowfs.fuse")


class Wanted(NamedTuple):
    """What is to be listed. ``root``: a descriptor of the mount's root, closed here; ``path``: from there, or empty
    where inodes can be opened by number. ``done(cookie reached, 0, an errno or listing.END)`` is called by the thread.
    """

    root: int
    ino: int
    generation: int
    path: bytes
    cookie: int
    size: int
    done: Callable[[int, int], None]


class _Process:
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

    def ask(self, wanted: Wanted) -> tuple[int, int]:
        """The reply. Raises OSError."""
        head = listing.REQUEST.pack(wanted.ino, wanted.cookie, wanted.generation, wanted.size)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [wanted.root]))
        self._socket.sendmsg([head + wanted.path], [rights])
        reply = self._socket.recv(listing.REPLY.size)
        if len(reply) != listing.REPLY.size:
            raise ConnectionResetError(errno.ECONNRESET, "the process that lists has ended")
        reached, state = listing.REPLY.unpack(reply)
        return reached, state

    def end(self) -> None:
        """Called when it lists nothing."""
        self._socket.close()
        self._process.wait()


class Lister:
    """Starts the process when there is something to list, and ends it when there was nothing for a while.

    ``busy``: something is being listed, so that :meth:`list` would say no.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: Wanted | None = None
        self.busy = self._closed = False
        self._thread: threading.Thread | None = None

    def list(self, wanted: Wanted) -> bool:
        """Have something listed, and return; False: not now (the descriptor is closed, nothing is called)."""
        with self._changed:
            if not self.busy and not self._closed:
                try:
                    if self._thread is None:
                        thread = threading.Thread(target=self._run, name="cowfs-lister", daemon=True)
                        thread.start()
                        self._thread = thread
                except RuntimeError as error:  # no thread can be started
                    log.debug("%s", error)
                else:
                    self._wanted, self.busy = wanted, True
                    self._changed.notify_all()
                    return True
        os.close(wanted.root)
        return False

    def close(self) -> None:
        """End thread and process. Nothing may be under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        process: _Process | None = None
        while (wanted := self._next()) is not None:
            reached, state = 0, errno.EIO
            try:
                process = process or _Process()
                reached, state = process.ask(wanted)
            except Exception as error:  # whatever it is: who waits for this, waits for `done`
                log.warning("directories are not listed ahead for now: %s", error)
                if process is not None:
                    process.end()
                    process = None
            finally:
                os.close(wanted.root)
                with self._changed:
                    self.busy = False
                wanted.done(reached, state)
        if process is not None:
            process.end()

    def _next(self) -> Wanted | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._wanted is not None or self._closed, KEPT_S) or not self._wanted:
                self._thread = None
                return None
            wanted, self._wanted = self._wanted, None
            return wanted
