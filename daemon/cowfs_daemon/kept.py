"""The worker's side of the keeper: mounts that outlive it."""

import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cowfs.errors import Busy
from cowfs_daemon.fuse.mount import Connection
from cowfs_daemon.fuse.negotiate import Negotiated
from cowfs_daemon.packets import receive, send

ANSWER_SECONDS = 30.0


class Kept:
    """``take(key)`` gives what another worker had mounted. Without a keeper (``descriptor`` None), nothing is kept."""

    def __init__(self, descriptor: int | None) -> None:
        self._sock = None if descriptor is None else socket.socket(fileno=descriptor)

    @property
    def keeping(self) -> bool:
        """Whether a mount that is left as it is can be taken over."""
        return self._sock is not None

    def take(self, key: str) -> Connection | None:
        """What is mounted for ``key``, to be served, or unmounted, from now on; None when nothing is."""
        for message, descriptor in self._ask({"op": "get", "key": key}):
            fields = message["fields"]
            init = Negotiated(**fields.pop("init"))
            return Connection(fd=descriptor, init=init, **fields)
        return None

    def has(self, key: str) -> bool:
        """Whether something is mounted for ``key``."""
        found = False
        for _, descriptor in self._ask({"op": "get", "key": key}):
            os.close(descriptor)
            found = True
        return found

    def keys(self) -> list[str]:
        """The keys of everything that is kept."""
        return [message["key"] for message, _ in self._ask({"op": "list"})]

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

    def _ask(self, question: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
        """(message, descriptor or -1) of each answer. Raises Busy when the keeper does not answer: it may know more."""
        if self._sock is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                send(self._sock, question, theirs.fileno())
            ours.settimeout(ANSWER_SECONDS)
            while True:
                try:
                    message, descriptor = receive(ours)
                except OSError as error:
                    raise Busy(f"the keeper does not answer: {error}", hint="try again") from error
                if message is None:
                    raise Busy("the keeper does not answer", hint="try again")
                if "end" in message:
                    return
                yield message, -1 if descriptor is None else descriptor
                if question["op"] == "get":
                    return
