"""The FUSE connections of a store: which of them nobody serves, and how to end exactly those.

A connection is the store's when it is a cowfs mount in the store's own directory for mounts, as this mount namespace
shows it. It is probed with a statfs, which its server has to answer; nobody is asked whether he serves it.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cowfs.client.place import KEEPER_LOCK_NAME, daemon_dir
from cowfs.errors import CowfsError
from cowfs.store import StoreDirectory
from cowfs_daemon.fuse import mount
from cowfs_daemon.mounts import runtime_dir

ALONE_SECONDS, KEPT_SECONDS = 5.0, 60.0
"""How long an answer may take when the store has no keeper, and when it has: a hanging worker is replaced by then."""

SERVED, HANGING, DEAD = "served", "hanging", "dead"


@dataclass(frozen=True, slots=True)
class Finding:
    """``state``: served; hanging: requests are not answered; dead: they fail at once, since all descriptors are closed.

    ``waiting``: requests that are not answered. ``done``: what was done about it.
    """

    path: str
    number: int
    state: str
    waiting: int
    done: str = ""


def report(store: str, fix: bool, patience_seconds: float | None = None) -> dict[str, Any]:
    """``connections``: every one of the store; with ``fix`` those that are not served are aborted and detached."""
    directory = StoreDirectory.open(Path(store))
    place = runtime_dir(directory.superblock.store_id.hex(), dict(os.environ), os.geteuid())
    kept = has_keeper(store)
    patience = patience_seconds or (KEPT_SECONDS if kept else ALONE_SECONDS)
    found = [asdict(each) for each in look(place, fix, patience)]
    return {"keeper": kept, "connections": found}


def has_keeper(store: str) -> bool:
    """Whether a process holds the mounts of ``store``."""
    try:
        fd = os.open(os.path.join(daemon_dir(store), KEEPER_LOCK_NAME), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def look(place: str, fix: bool, patience_seconds: float) -> Iterator[Finding]:
    """A finding for each cowfs mount directly in the directory ``place``; all are probed at the same time."""
    probes = {mounted: Probe(mounted.path) for mounted in _mounted(place)}
    until = time.monotonic() + patience_seconds
    for mounted, probe in probes.items():
        state = probe.state(max(until - time.monotonic(), 0))
        number = os.minor(mounted.device)
        waiting = mount.waiting(number)
        done = _end(mounted) if fix and state != SERVED else ""
        probe.close()
        yield Finding(mounted.path, number, state, waiting, done)


def _mounted(place: str) -> list[mount.Mounted]:
    place = os.path.realpath(place)
    table = mount.mount_table()
    return [each for each in table if each.kind == "fuse.cowfs" and os.path.dirname(each.path) == place]


def _end(mounted: mount.Mounted) -> str:
    """Abort the connection, so that whoever waits gets an error, and take its mount away; what was done."""
    if mounted not in _mounted(os.path.dirname(mounted.path)):
        return "it is gone meanwhile"
    done = []
    with contextlib.suppress(CowfsError):
        mount.abort(os.minor(mounted.device))
        done.append("aborted")
    try:
        # A mount on top of it is somebody else's.
        on_top = [each for each in mount.mount_table() if each.path == mounted.path][-1]
        if on_top.mount_id != mounted.mount_id:
            return ", ".join([*done, "something else is mounted on it"])
        mount.unmount(mounted.path, force=True)
        done.append("detached")
        os.rmdir(mounted.path)
    except (CowfsError, OSError) as error:
        done.append(f"not detached: {error}" if "detached" not in done else f"its directory stays: {error}")
    return ", ".join(done)


class Probe:
    """A child that asks for a statfs: it may hang, and then nothing but the end of the connection ends it."""

    def __init__(self, path: str) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if not self._child:
            number = 0
            try:
                os.statvfs(path)
            except OSError as error:
                number = error.errno or errno.EIO
            finally:
                os.write(write, bytes([min(number, 255)]))
                os._exit(0)
        os.close(write)
        self._read = read

    def state(self, seconds: float) -> str:
        """How the connection is, waiting so long at most."""
        if not select.select([self._read], [], [], seconds)[0]:
            return HANGING
        answer = os.read(self._read, 1)
        return DEAD if answer in (bytes([errno.ENOTCONN]), bytes([errno.ECONNABORTED])) else SERVED

    def close(self) -> None:
        """End the child if that can be done; one that hangs on is left to whoever ends the connection."""
        os.close(self._read)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, os.WNOHANG)
