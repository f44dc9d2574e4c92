"""HTTP/1.1 over the daemon's Unix socket: JSON in, JSON out, typed errors.

A small protocol of its own rather than ``http.client``: that import (with email.parser) costs 29 ms of every
command, half of what a whole one may take. It speaks only what the daemon sends: a status line, headers, and a
body with a length or in chunks.

Thread-safe: each request takes an idle connection from a pool, or opens one.

Every request that may change something carries a fresh idempotency key. When its connection ends before the whole
answer has come, it is sent again under the same key once the daemon answers again, so that it is carried out once.
"""

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

from cowfs.client.place import connect_socket, is_store
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound

_BY_CODE: dict[str, type[CowfsError]] = {
    kind.code: kind for kind in (CowfsError, Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)
}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~@")
_MAX_LINE_BYTES = 64 * 1024
_MAX_IDLE = 4
AGAIN_SECONDS = 60.0
"""How long a request is sent again, from the first time that its connection was lost."""

_AGAIN_PAUSE_SECONDS = 0.05
T = TypeVar("T")


class LostDaemon(CowfsError):
    """The connection ended before the whole answer had come: nobody knows whether the request was carried out."""


def quote(text: str | bytes) -> str:
    """Percent-encode for a path segment or a query value. Raises Invalid for text that is not valid UTF-8."""
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"not valid UTF-8: {text!r}") from None
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text)


def segment(name: str) -> str:
    """One path segment of a URL. Raises Invalid for names that no segment can carry (nor any workspace have)."""
    if not name or name in (".", "..") or "/" in name:
        raise Invalid(f"not a valid name: {name!r}", hint="names are letters, digits and ._-")
    return quote(name)


def query(parameters: Mapping[str, str | None]) -> str:
    """``?a=b&c=d`` of those that are not None, or an empty string."""
    pairs = [f"{key}={quote(value)}" for key, value in parameters.items() if value is not None]
    return "?" + "&".join(pairs) if pairs else ""


class _Connection:
    """One connection; ``clean`` tells whether the last response was read to its end, so that it can be reused."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader: BinaryIO = sock.makefile("rb")
        self.clean = True

    def close(self) -> None:
        self.reader.close()
        self.sock.close()

    def stale(self) -> bool:
        """The server has closed it, or sent what nobody asked for."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def send(self, method: str, target: str, body: bytes | None, key: str | None) -> None:
        head = f"{method} {target} HTTP/1.1\r\nHost: cowfs\r\n"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.clean = False
        self.sock.sendall(head.encode("ascii") + b"\r\n" + (body or b""))

    def _line(self) -> bytes:
        line = self.reader.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the daemon closed the connection")
        return line.rstrip(b"\r\n")

    def response(self) -> tuple[int, dict[bytes, bytes]]:
        """The status and the headers (names in lower case)."""
        parts = self._line().split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise ConnectionResetError("what answers on the daemon's socket does not speak HTTP")
        headers: dict[bytes, bytes] = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        return int(parts[1]), headers

    def body(self, headers: dict[bytes, bytes]) -> Iterator[bytes]:
        """The pieces of the body as they come."""
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            while size := int(self._line().partition(b";")[0], 16):
                yield self._exactly(size)
                self._line()
            while self._line():
                pass
        else:
            left = int(headers.get(b"content-length", b"0"))
            while left:
                piece = self._exactly(min(left, 1 << 20))
                left -= len(piece)
                yield piece
        self.clean = headers.get(b"connection", b"").lower() != b"close"

    def _exactly(self, size: int) -> bytes:
        data = self.reader.read(size)
        if len(data) != size:
            raise ConnectionResetError("the daemon closed the connection in the middle of an answer")
        return data


def error_from(status: int, body: bytes) -> CowfsError:
    """The typed error that an answer with a status of 400 or more carries."""
    try:
        error = json.loads(body)["error"]
        kind = _BY_CODE.get(error["code"], CowfsError)
        return kind(str(error["message"]), hint=str(error.get("hint") or ""))
    except (ValueError, KeyError, TypeError):
        return CowfsError(f"the daemon answered {status}: {body[:200].decode(errors='replace')}")


class Wire:
    """Requests to the daemon of the store at ``store`` (an absolute path); starts it if need be and ``start``."""

    def __init__(self, store: str, *, start: bool = True) -> None:
        self.store = store
        self.start = start
        self._idle: list[_Connection] = []

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> _Connection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.stale():
                return connection
            connection.close()
        try:
            return _Connection(connect_socket(self.store))
        except (FileNotFoundError, ConnectionRefusedError):
            if not is_store(self.store):
                raise NotFound(f"no store at {self.store}", hint=f"cowfs init --store {self.store}") from None
            if not self.start:
                raise NotFound(f"no daemon is running for {self.store}", hint="cowfs daemon start") from None
        except NotADirectoryError:
            raise NotFound(f"no store at {self.store}", hint="it is not a directory") from None
        except PermissionError:
            raise Invalid(f"no right to use the store at {self.store}", hint="it belongs to another user") from None
        from cowfs.client.launch import start_daemon

        start_daemon(self.store)
        return _Connection(connect_socket(self.store))

    def _give_back(self, connection: _Connection) -> None:
        if connection.clean and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def pieces(self, method: str, target: str, body: object = None, key: str | None = None) -> Iterator[bytes]:
        """The body of the answer as it comes. Raises the error it carries, or LostDaemon when the daemon goes away."""
        connection = self._connect()
        try:
            connection.send(method, target, None if body is None else json.dumps(body).encode(), key)
            status, headers = connection.response()
            if status >= 400:
                raise error_from(status, b"".join(connection.body(headers)))
            yield from connection.body(headers)
        except (OSError, ValueError) as error:
            raise LostDaemon(f"lost the daemon of {self.store}: {error}", hint="see `cowfs doctor`") from error
        finally:
            self._give_back(connection)

    def call(self, method: str, target: str, body: object = None, *, again: bool = True) -> Any:
        """The JSON value of the answer (None when it is empty).

        ``again``: send it again when the connection is lost, if this object may start a daemon.
        """
        key = None if method == "GET" else os.urandom(16).hex()

        def ask() -> Iterator[bytes]:
            yield b"".join(self.pieces(method, target, body, key))

        data = b"".join(self._again(ask, lambda: again))
        return json.loads(data) if data else None

    def stream(self, target: str) -> Iterator[bytes]:
        """The bytes that a GET gives, as they come; asked for again if the connection is lost before the first."""
        begun = False

        def ask() -> Iterator[bytes]:
            nonlocal begun
            for piece in self.pieces("GET", target):
                begun = True
                yield piece

        return self._again(ask, lambda: not begun)

    def lines(self, method: str, target: str, body: object = None) -> Iterator[Any]:
        """The JSON values of an answer of one value a line (application/x-ndjson), as they come.

        A line ``{"error": …}`` is raised: it is how an answer that has begun reports a failure. A request that is sent
        again, as for :meth:`call`, gives lines from the beginning.
        """
        key = None if method == "GET" else os.urandom(16).hex()

        def ask() -> Iterator[Any]:
            rest = b""
            for piece in self.pieces(method, target, body, key):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    value = json.loads(line)
                    if isinstance(value, dict) and "error" in value:
                        raise error_from(500, line)
                    yield value

        return self._again(ask, lambda: key is not None)

    def _again(self, ask: Callable[[], Iterator[T]], again: Callable[[], bool]) -> Iterator[T]:
        """What ``ask`` gives, which is asked again while the daemon is lost and ``again()``."""
        until: float | None = None
        while True:
            try:
                yield from ask()
            except LostDaemon:
                now = time.monotonic()
                until = now + AGAIN_SECONDS if until is None else until
                if not (self.start and again()) or now > until:
                    raise
                self._wait_for_daemon(until)
            else:
                return

    def _wait_for_daemon(self, until: float) -> None:
        """Return when a daemon answers. Raises what its start fails with until then."""
        while True:
            try:
                self._give_back(self._connect())
            except CowfsError:
                if time.monotonic() > until:
                    raise
                time.sleep(_AGAIN_PAUSE_SECONDS)
            else:
                return
