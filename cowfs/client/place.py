"""Where a store's daemon is found: a pure function of the store's path.

``STORE/daemon/`` holds what belongs to the daemon alone: its socket, its log, its start lock, its list of mounts.
"""

import os
import socket

from cowfs.errors import Invalid

SOCKET_NAME = "sock"
LOG_NAME = "log"
START_LOCK_NAME = "start.lock"
KEEPER_LOCK_NAME = "keeper.lock"
# sun_path is 108 bytes with its terminating NUL (unix(7)).
SUN_PATH_BYTES = 107


def store_path(store: str | None) -> str:
    """The absolute path of ``store``; when it is None, of COWFS_STORE or else of :func:`default_store`.

    Raises Invalid when it is empty, or nothing says where it could be.
    """
    chosen = os.environ.get("COWFS_STORE") or default_store() if store is None else store
    if not chosen:
        raise Invalid("no store given", hint="pass --store DIR or set COWFS_STORE; `cowfs init` makes a new store")
    if "\0" in chosen:
        raise Invalid("a path cannot contain a NUL byte")
    return os.path.abspath(chosen)


def default_store() -> str:
    """Where the store of this process's user is when nobody says otherwise; empty without a home directory.

    ``/var/lib/cowfs`` for root, else ``cowfs`` in XDG_DATA_HOME (XDG base directory specification 0.8).
    """
    if os.geteuid() == 0:
        return "/var/lib/cowfs"
    data, home = os.environ.get("XDG_DATA_HOME", ""), os.environ.get("HOME", "")
    if not os.path.isabs(data):  # to be ignored then, says the specification
        data = os.path.join(home, ".local", "share") if os.path.isabs(home) else ""
    return os.path.join(data, "cowfs") if data else ""


def is_store(store: str) -> bool:
    """Whether a store is there; in what is none, nothing may be written."""
    return os.path.isfile(os.path.join(store, "superblock"))


def daemon_dir(store: str) -> str:
    """The directory of ``store`` that belongs to its daemon."""
    return os.path.join(store, "daemon")


def connect_socket(store: str) -> socket.socket:
    """A stream connected to the daemon of ``store``; raises OSError as connect(2) does.

    A path too long for sun_path is reached through a descriptor of its directory.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = os.path.join(daemon_dir(store), SOCKET_NAME)
        if len(os.fsencode(path)) <= SUN_PATH_BYTES:
            sock.connect(path)
        else:
            directory = os.open(daemon_dir(store), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
            finally:
                os.close(directory)
    except BaseException:
        sock.close()
        raise
    return sock
