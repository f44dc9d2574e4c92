"""The worker's side of the keeper: mounts that outlive it."""

import socket
from dataclasses import asdict

from cowfs_daemon.fuse.mount import Connection
from cowfs_daemon.fuse.negotiate import Negotiated
from cowfs_daemon.keeper import receive, send


class Kept:
    """``take(key)`` gives what a predecessor had mounted. Without a keeper (``descriptor`` None), nothing is kept."""

    def __init__(self, descriptor: int | None) -> None:
        self._sock = None if descriptor is None else socket.socket(fileno=descriptor)
        self._mounts: dict[str, Connection] = {} if self._sock is None else _list(self._sock)

    @property
    def keeping(self) -> bool:
        """Whether a mount that is left as it is will be taken over."""
        return self._sock is not None

    def take(self, key: str, path: str) -> Connection | None:
        """What is mounted at ``path`` for ``key`` and nobody serves, once."""
        found = self._mounts.get(key)
        if found is None or found.mountpoint != path:
            return None
        return self._mounts.pop(key)

    def rest(self) -> dict[str, Connection]:
        """What nobody has taken, to be let go of."""
        rest, self._mounts = self._mounts, {}
        return rest

    def keep(self, key: str, connection: Connection) -> None:
        """Hand the keeper a copy. Raises OSError when it is gone."""
        if self._sock is not None:
            fields = asdict(connection)
            del fields["fd"]
            send(self._sock, {"op": "keep", "key": key, "fields": fields}, connection.fd)

    def drop(self, key: str) -> None:
        """It is unmounted. A keeper that is gone is no error."""
        if self._sock is not None:
            try:
                send(self._sock, {"op": "drop", "key": key})
            except OSError:
                return


def _list(sock: socket.socket) -> dict[str, Connection]:
    send(sock, {"op": "list"})
    found: dict[str, Connection] = {}
    while True:
        message, descriptor = receive(sock)
        if message is None or "end" in message:
            return found
        if descriptor is not None:
            fields = message["fields"]
            init = Negotiated(**fields.pop("init"))
            found[message["key"]] = Connection(fd=descriptor, init=init, **fields)
