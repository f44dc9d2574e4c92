"""A process that serves a Unix socket in the foreground, until it is told to end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from cowfs.errors import Conflict, Invalid

PATH_BYTES: Final = 107
"""Of a socket's path at most: sun_path."""


@contextmanager
def private_socket(path: str, bind: Callable[[str], None]) -> Iterator[None]:
    """A socket of mode 0600 at ``path``, made by ``bind(path)``; its name goes with the context.

    Its folder is made if need be, a socket that nobody serves is replaced. Raises Invalid for a path that no socket
    can have or where this user may make none, Conflict when something else is there or serves it.
    """
    if not path.startswith("/") or len(os.fsencode(path)) > PATH_BYTES or "\0" in path:
        raise Invalid(f"no socket can be at {path[:200]!a}", hint=f"name an absolute path, at most {PATH_BYTES} bytes")
    try:
        _vacate(path)
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):  # what binds may not say why it failed
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        before = os.umask(0o177)
        try:
            bind(path)
        finally:
            os.umask(before)
    except PermissionError as error:
        hint = "run this as root, or name a path of your own with --socket"
        raise Invalid(f"{path}: user {os.geteuid()} may not make that socket", hint=hint) from error
    except OSError as error:
        why = f"no socket can be made at {path}: {error.strerror}"
        raise Invalid(why, hint="name another path with --socket") from error
    made = os.lstat(path).st_ino
    try:
        yield
    finally:
        with suppress(OSError):
            if os.lstat(path).st_ino == made:
                os.unlink(path)


def _vacate(path: str) -> None:
    """Remove what a killed server has left."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Conflict(f"{path} exists, and is no socket", hint="name another path with --socket, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise Conflict(f"something serves {path} already", hint="stop it, or name another path with --socket")


class Ending:
    """Ends with SIGTERM, SIGHUP or SIGINT; to be made in the main thread, before anything is served."""

    def __init__(self) -> None:
        # Not a handler that sets something: one that comes just before the main thread sleeps would be run after that.
        self._ended, end = os.pipe()
        os.set_blocking(end, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Return when this process is told to end."""
        os.read(self._ended, 1)
