"""ASGI middleware: a request body has at most 1 MiB; an idempotency key is read, with a digest of the request."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from blake3 import blake3

from cowfs.errors import Invalid
from cowfs.remembered import KEY_MAX, Request
from cowfs_daemon.api.failures import error_shape

MAX_BODY_BYTES = 1 << 20
KEY_HEADER = b"idempotency-key"
ASKED = "cowfs.request"
"""Where a scope holds the :class:`cowfs.remembered.Request` of a request with a key."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BoundedBody:
    """Reads the body before the application does, and answers 400 itself when it is too long."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        body = bytearray()
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size <= MAX_BODY_BYTES:
                body += message.get("body", b"")
        if size > MAX_BODY_BYTES:  # read to its end all the same: a client that still sends hears no answer
            await _refuse(send, Invalid(f"the request body has more than {MAX_BODY_BYTES} bytes"))
            return
        try:
            scope[ASKED] = _asked(scope, body)
        except Invalid as error:
            await _refuse(send, error)
            return
        await self.app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def _asked(scope: MutableMapping[str, Any], body: bytearray) -> Request | None:
    """The key that came with a request and the digest of all it says. Raises Invalid."""
    keys = [value for name, value in scope["headers"] if name.lower() == KEY_HEADER]
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= KEY_MAX or not all(0x21 <= byte <= 0x7E for byte in keys[0]):
        raise Invalid(f"Idempotency-Key: give one, of 1 to {KEY_MAX} printable ASCII characters without blanks")
    said = (scope["method"].encode(), scope.get("raw_path") or scope["path"].encode(), scope["query_string"], body)
    digest = blake3()
    for part in said:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(bytes(part))
    return Request(keys[0].decode("ascii"), digest.digest())


async def _refuse(send: Send, error: Invalid) -> None:
    body = json.dumps(error_shape(error)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
