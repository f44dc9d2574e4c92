"""No worker of a daemon that is gone may write to a journal any more: a journal has one writer at a time.

Each worker holds a shared lock on ``STORE/daemon/workers.lock`` for as long as it lives. A supervisor, before it starts
its first one, waits until nobody does, and in the end kills who still does (a worker that hangs or is stopped).

The keeper does the same for its children, but it may be another one that has died.
"""

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator

from cowfs.client.place import daemon_dir
from cowfs.errors import Busy
from cowfs_daemon import lingering

log = logging.getLogger("cowfs.orphans")
LOCK_NAME = "workers.lock"
PATIENCE_SECONDS, LIMIT_SECONDS = 10.0, 30.0
"""How long a worker may take to end by itself; when it is given up."""

_POLL_SECONDS = 0.02


def hold(store: str) -> int:
    """A descriptor that says: here is a worker of ``store``."""
    fd = _open(store)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def wait_none(store: str) -> None:
    """Return when no worker of ``store`` can write any more. Raises Busy when one cannot even be killed."""
    fd = _open(store)
    began = time.monotonic()
    killed: set[int] = set()
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            holders = set(_holders(fd))
            if holders and all(lingering.harmless(pid) for pid in holders):
                return
            waited = time.monotonic() - began
            if waited > LIMIT_SECONDS:
                raise Busy("workers of a daemon that is gone do not end", hint="see `ps`: they wait for a disk")
            if waited > PATIENCE_SECONDS:
                for pid in holders - killed:
                    log.error("worker %d of a daemon that is gone does not end: killing it", pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(fd)


def _open(store: str) -> int:
    directory = daemon_dir(store)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return os.open(os.path.join(directory, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _holders(fd: int) -> Iterator[int]:
    """The processes that hold a lock on the file, by /proc/locks (see proc(5))."""
    status = os.fstat(fd)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with open("/proc/locks") as lines:
        for line in lines:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
                yield int(fields[4])
