"""What the keeper keeps: the mounts' descriptors, and what it was told of the supervisor. Standard library only."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from cowfs_daemon.packets import send
from cowfs_daemon.storing import FdStore

ANSWER_SECONDS = 2.0
Renew = Callable[[], dict[str, Any]]


@contextlib.contextmanager
def _answering(descriptor: int) -> Iterator[socket.socket]:
    """The socket to answer on. Who does not listen loses the answer; the keeper waits for nobody."""
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
        sock.settimeout(ANSWER_SECONDS)
        yield sock


class Table:
    """The mounts that are kept: key -> (fields, descriptor).

    ``answered``: a supervisor has said that it is ready; ``ending``: that it was told to stop. ``beats``: how often it
    has shown life. ``fd_store``: keeps a copy of everything. ``renew`` checks the installed code (see Keeper).
    """

    def __init__(self, fd_store: FdStore | None = None, renew: Renew | None = None) -> None:
        self.kept: dict[str, tuple[Any, int]] = {}
        self.answered = self.ending = False
        self.beats = 0
        self._fd_store = fd_store
        self._renew = renew

    def adopt(self, key: str, fields: Any, descriptor: int) -> None:
        """Keep what a predecessor kept."""
        self.kept[key] = (fields, descriptor)

    def handle(self, message: dict[str, Any] | None, descriptor: int | None) -> None:
        """Do what a packet says."""
        match message:
            case {"op": "keep", "key": str(key), "fields": fields} if descriptor is not None:
                self._drop(key)
                self.kept[key] = (fields, descriptor)
                if self._fd_store is not None:
                    self._fd_store.store(key, fields, descriptor)
                return
            case {"op": "drop", "key": str(key)}:
                self._drop(key)
            case {"op": "get" | "list" | "renew" as op, **rest} if descriptor is not None:
                with _answering(descriptor) as sock:
                    self._answer(op, rest.get("key"), sock)
                return
            case {"op": "ready"}:
                self.answered = True
                self.beats += 1
                if self._fd_store is not None:
                    self._fd_store.ready()
            case {"op": "beat"}:
                self.beats += 1
            case {"op": "ending"}:
                self.ending = True
                if self._fd_store is not None:
                    self._fd_store.stopping()
        if descriptor is not None:
            os.close(descriptor)

    def _answer(self, op: str, key: object, sock: socket.socket) -> None:
        if op == "get" and isinstance(key, str) and key in self.kept:
            fields, descriptor = self.kept[key]
            send(sock, {"key": key, "fields": fields}, descriptor)
            return
        if op == "renew" and self._renew is not None:
            send(sock, self._renew())
            return
        if op == "list":
            for each in self.kept:
                send(sock, {"key": each})
        send(sock, {"end": True})

    def _drop(self, key: str) -> None:
        known = self.kept.pop(key, None)
        if known is not None:
            os.close(known[1])
            if self._fd_store is not None:
                self._fd_store.remove(key)
