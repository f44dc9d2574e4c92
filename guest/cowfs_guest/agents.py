"""The agent's verbs inside of a virtual machine: a Unix socket like a sandbox's, passed on to the host line by line."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from cowfs_guest import Refused

REQUEST_BYTES = 16 * 1024
CONNECTIONS_MAX = 8
LINE_SECONDS = 10.0
IDLE_SECONDS = 600.0


class AgentSocket:
    """The socket at ``path``; ``ask(line)`` gives the host's answer to a request. Raises OSError.

    Who can open it may ask: everybody inside, as in a sandbox.
    """

    def __init__(self, path: str, ask: Callable[[str], str]) -> None:
        self._ask = ask
        self._path = path
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(path)  # a predecessor's
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(path)
        os.chmod(path, 0o666)
        self._sock.listen(CONNECTIONS_MAX)
        threading.Thread(target=self._accept, name="cowfs-agents", daemon=True).start()

    def _accept(self) -> None:
        while True:
            self._free.acquire()
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                for line in _lines(connection):
                    try:
                        text = self._ask(line.decode())
                    except UnicodeDecodeError:
                        text = refused(Refused("invalid", "a request is one line of JSON"))
                    except Refused as error:
                        text = refused(error)
                    connection.settimeout(LINE_SECONDS)
                    connection.sendall(text.encode() + b"\n")
        finally:
            self._free.release()

    def close(self) -> None:
        """Nobody is answered from now on."""
        with suppress(OSError):
            os.unlink(self._path)
        self._sock.close()


def refused(error: Refused) -> str:
    """The answer to a request that failed."""
    return json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}})


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Lines as they come, until the other side ends, is slow, or sends one that is too long."""
    data = b""
    while True:
        line, newline, rest = data.partition(b"\n")
        if newline:
            data = rest
            yield line
            continue
        if len(data) >= REQUEST_BYTES:
            connection.sendall(
                refused(Refused("invalid", f"a request has at most {REQUEST_BYTES} bytes")).encode() + b"\n"
            )
            return
        connection.settimeout(LINE_SECONDS if data else IDLE_SECONDS)
        piece = connection.recv(REQUEST_BYTES - len(data))
        if not piece:
            return
        data += piece
