"""Docker's volume plugin protocol: JSON over HTTP, POST only, one request a connection.

What is refused carries the status of its kind and ``{"Err": …}``, which Docker shows to the user.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import Any, Final

from cowfs.errors import CowfsError, Invalid
from cowfs_cli.adapter.foreground import private_socket
from cowfs_cli.docker.volumes import Volume, Volumes

BODY_BYTES: Final = 64 * 1024
"""Of a request's body at most."""

SECONDS: Final = 30.0
"""For the next piece of a request, and for an answer to be taken."""

CONNECTIONS_MAX: Final = 32
"""At once; more wait."""

_POLL_SECONDS: Final = 0.1
CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.2+json"

Fields = dict[str, Any]
Method = Callable[[Volumes, Fields], Fields]


def _activate(_: Volumes, __: Fields) -> Fields:
    return {"Implements": ["VolumeDriver"]}


def _capabilities(_: Volumes, __: Fields) -> Fields:
    return {"Capabilities": {"Scope": "local"}}


def _create(volumes: Volumes, fields: Fields) -> Fields:
    options = fields.get("Opts") or {}
    if not isinstance(options, dict) or not all(isinstance(each, str) for each in options.values()):
        raise Invalid("Opts is not an object of texts")
    volumes.create(_text(fields, "Name"), options)
    return {}


def _remove(volumes: Volumes, fields: Fields) -> Fields:
    volumes.remove(_text(fields, "Name"))
    return {}


def _mount(volumes: Volumes, fields: Fields) -> Fields:
    return {"Mountpoint": volumes.mount(_text(fields, "Name"), _text(fields, "ID"))}


def _unmount(volumes: Volumes, fields: Fields) -> Fields:
    volumes.unmount(_text(fields, "Name"), _text(fields, "ID"))
    return {}


def _path(volumes: Volumes, fields: Fields) -> Fields:
    return {"Mountpoint": volumes.get(_text(fields, "Name")).path}


def _get(volumes: Volumes, fields: Fields) -> Fields:
    volume = volumes.get(_text(fields, "Name"))
    return {"Volume": {**_shape(volume), "Status": {"made by Docker": volume.made, "containers": volume.users}}}


def _list(volumes: Volumes, _: Fields) -> Fields:
    return {"Volumes": [_shape(volume) for volume in volumes.all()]}


METHODS: Final[dict[str, tuple[Method, frozenset[str]]]] = {
    "/Plugin.Activate": (_activate, frozenset()),
    "/VolumeDriver.Capabilities": (_capabilities, frozenset()),
    "/VolumeDriver.Create": (_create, frozenset({"Name", "Opts"})),
    "/VolumeDriver.Remove": (_remove, frozenset({"Name"})),
    "/VolumeDriver.Mount": (_mount, frozenset({"Name", "ID"})),
    "/VolumeDriver.Unmount": (_unmount, frozenset({"Name", "ID"})),
    "/VolumeDriver.Path": (_path, frozenset({"Name"})),
    "/VolumeDriver.Get": (_get, frozenset({"Name"})),
    "/VolumeDriver.List": (_list, frozenset()),
}
"""What is called, and the fields that it may carry."""


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise Invalid(f"{key} is missing, or no text")
    return value


def _shape(volume: Volume) -> Fields:
    created = datetime.fromtimestamp(volume.created_at // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"Name": volume.name, "Mountpoint": volume.path, "CreatedAt": created}


def answer(volumes: Volumes, method: str, body: bytes) -> tuple[int, Fields]:
    """(status, answer) of one request."""
    try:
        if method not in METHODS:
            return 404, {"Err": f"no such method: {method[:80]!a}"}
        call, known = METHODS[method]
        return 200, call(volumes, _parse(body, known))
    except CowfsError as error:
        return error.http_status, {"Err": error.message + (f" ({error.hint})" if error.hint else "")}
    except Exception as error:
        return 500, {"Err": f"cowfs failed: {type(error).__name__}"}


def _parse(body: bytes, known: frozenset[str]) -> Fields:
    if not body.strip():
        return {}
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid("the request is no JSON") from None
    if not isinstance(fields, dict):
        raise Invalid("the request is no JSON object")
    unknown = sorted(set(fields) - known)
    if unknown:
        raise Invalid(f"unknown field {unknown[0][:80]!a}")
    return fields


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # what cannot be read gets a status, too
    timeout = SECONDS
    server: _Server

    def do_POST(self) -> None:
        """Answer one request, and close: an idle connection would hold one of the places."""
        length = self.headers.get("Content-Length", "0" if self.path == "/Plugin.Activate" else "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            self._send(411, {"Err": "a request needs a Content-Length"})
        elif len(length) > 9 or int(length) > BODY_BYTES:
            self._send(413, {"Err": f"a request has at most {BODY_BYTES} bytes"})
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._send(*answer(self.server.volumes, self.path, body))
        self.close_connection = True

    def _send(self, status: int, fields: Fields) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """A Unix socket's clients have none."""
        return "client"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what failed is told to Docker."""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    ending = False

    def __init__(self, path: str, volumes: Volumes) -> None:
        self.volumes = volumes
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, as soon as there is a place."""
        while not self._free.acquire(timeout=_POLL_SECONDS):
            if self.ending:
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Until the connection ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business."""


@contextmanager
def serving(volumes: Volumes, path: str) -> Iterator[None]:
    """The plugin at the socket ``path``, mode 0600, until the end of the context. Raises Invalid, Conflict."""
    made: list[_Server] = []
    with private_socket(path, lambda at: made.append(_Server(at, volumes))):
        (server,) = made
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, name="docker-plugin"
        )
        thread.start()
        try:
            yield
        finally:
            server.ending = True
            server.shutdown()
            thread.join()
            server.server_close()
