"""Becoming a daemon: leave the caller, keep a log, say on a pipe when ready, listen on the store's socket."""

import contextlib
import json
import os
import resource
import socket
from typing import Any

from cowfs.client.place import LOG_NAME, SOCKET_NAME, connect_socket, daemon_dir
from cowfs_daemon import logs

BACKLOG = 128


def detach(store: str) -> None:
    """Go on in a child of init: own session, cwd /, standard streams on /dev/null and the log.

    Call it before any thread starts. The caller's process ends here with status 0. The log is
    ``STORE/daemon/log``, which is put aside when it is full (``cowfs_daemon.logs``).
    """
    directory = daemon_dir(store)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, LOG_NAME)
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    if os.path.exists(path):
        logs.rotate(path, logs.LIMIT_BYTES)
    log = logs.open_log(path)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def raise_limits() -> None:
    """Have as many descriptors as the hard limit allows: each mount takes about five in its worker, one in the keeper.

    The processes started from here on have them, too.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Ready:
    """The pipe on which a starter waits: one JSON object, ``{"pid"}`` or ``{"error"}``, then its end.

    ``fd`` None: nobody waits.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, message: dict[str, Any]) -> None:
        """Only the first message counts. A starter that has gone away is no error."""
        if self.fd is None:
            return
        fd, self.fd = self.fd, None
        try:
            os.write(fd, json.dumps(message).encode())
        except OSError:
            return
        finally:
            os.close(fd)

    def close(self) -> None:
        """Leave it to another process, which has inherited the pipe, to tell."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def listen(store: str) -> socket.socket:
    """A listening socket, mode 0600, at ``STORE/daemon/sock``. Only the owner of the store may call it.

    It is bound under another name and renamed, so that whoever sees the name can connect; a socket left by a
    killed daemon is replaced.
    """
    directory = daemon_dir(store)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    new = SOCKET_NAME + ".new"
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_umask = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=at)
        # Through the descriptor, since sun_path has 108 bytes only.
        sock.bind(f"/proc/self/fd/{at}/{new}")
        sock.listen(BACKLOG)
        os.rename(new, SOCKET_NAME, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(old_umask)
        os.close(at)
    return sock


def answers(store: str) -> bool:
    """Whether a daemon listens for ``store``."""
    with contextlib.suppress(OSError):
        connect_socket(store).close()
        return True
    return False


def unlisten(store: str) -> None:
    """Remove the socket's name: from now on, a client that finds none starts a new daemon."""
    try:
        os.unlink(os.path.join(daemon_dir(store), SOCKET_NAME))
    except FileNotFoundError:
        return
