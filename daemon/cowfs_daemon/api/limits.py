"""ASGI middleware: a request body has at most 1 MiB."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cowfs.errors import Invalid
from cowfs_daemon.api.failures import error_shape

MAX_BODY_BYTES = 1 << 20

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
            await _refuse(send)
            return
        await self.app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


async def _refuse(send: Send) -> None:
    error = Invalid(f"the request body has more than {MAX_BODY_BYTES} bytes")
    body = json.dumps(error_shape(error)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
