"""The HTTP API against requests that no client sends: the documented error shape with its status, and no crash."""

import json
import socket
from random import Random
from typing import Any

import pytest

from cowfs.client.place import connect_socket
from cowfs.client.wire import _Connection
from tests.hostile.decoders import BODIES
from tests.hostile.mutate import mutate, mutate_json
from tests.support.servedstore import ServedStore

FUZZED = 500
ROUTES = {
    "Create": "/v1/workspaces", "Import": "/v1/imports", "Checkpoint": "/v1/workspaces/ws/checkpoint",
    "Restore": "/v1/workspaces/ws/restore", "Fork": "/v1/forks", "Rename": "/v1/workspaces/ws/rename",
    "Label": "/v1/snapshots/ws@good/labels", "Mount": "/v1/mounts", "Check": "/v1/store/check",
}  # fmt: skip


class Client:
    """Speaks HTTP by hand over one connection, which it opens again when the server has closed it."""

    def __init__(self, served: ServedStore) -> None:
        self._store = str(served.path)
        self._connection = self._open()

    def _open(self) -> _Connection:
        return _Connection(connect_socket(self._store))

    def request(self, method: str, target: str, body: bytes | None = None, *headers: str) -> tuple[int, bytes]:
        """(status, body) of the answer."""
        if not self._connection.clean or self._connection.stale():
            self.close()
            self._connection = self._open()
        head = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
        if body is not None:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._connection.sock.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (body or b""))
        status, received = self._connection.response()
        return status, b"".join(self._connection.body(received))

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def http(served: ServedStore) -> Any:
    http = Client(served)
    assert http.request("POST", "/v1/workspaces", b'{"name": "ws"}')[0] == 201
    assert http.request("POST", "/v1/workspaces/ws/checkpoint", b'{"label": "good"}')[0] == 200
    yield http
    http.close()


def is_error(answer: tuple[int, bytes]) -> bool:
    """Whether an answer is an error as documented; an unforeseen one (500, internal) is not."""
    status, body = answer
    error = json.loads(body)["error"]
    return 400 <= status < 500 and set(error) == {"code", "message", "hint"} and error["code"] != "internal"


WRONG: list[tuple[str, str, bytes | None]] = [
    ("GET", "/v1/nothing", None),
    ("GET", "/", None),
    ("GET", "/v1/workspaces/%2e%2e", None),
    ("GET", "/v1/workspaces/%2e%2e%2f%2e%2e%2fetc/log", None),
    ("GET", "/v1/workspaces/%ff%fe/log", None),
    ("GET", "/v1/workspaces/%00/log", None),
    ("GET", "/v1/snapshots/%40", None),
    ("PUT", "/v1/workspaces", b"{}"),
    ("DELETE", "/v1/workspaces", None),
    ("GET", "/v1/diff", None),
    ("GET", "/v1/diff?a=ws", None),
    ("GET", "/v1/diff?a=ws&b=%ff", None),
    ("GET", "/v1/diff?a=ws&b=" + "x" * 5000, None),
    ("GET", "/v1/files?ref=ws&path_b64=%C3%A9", None),
    ("GET", "/v1/files?ref=ws&path_b64=AA%3D%3D", None),
    ("GET", "/v1/files?ref=ws&path_b64=***", None),
    ("GET", "/v1/files?ref=ws&path=..%2f..%2fetc%2fpasswd", None),
    ("DELETE", "/v1/refs?ref=ws&force=perhaps", None),
    ("POST", "/v1/workspaces", b""),
    ("POST", "/v1/workspaces", b"null"),
    ("POST", "/v1/workspaces", b"[]"),
    ("POST", "/v1/workspaces", b"{"),
    ("POST", "/v1/workspaces", b"\xff\xfe"),
    ("POST", "/v1/workspaces", b'{"name": "\\ud800"}'),
    ("POST", "/v1/workspaces", b'{"name": 1}'),
    ("POST", "/v1/workspaces", b'{"name": "x", "name2": "y"}'),
    ("POST", "/v1/workspaces", b"[" * 100_000),
    ("POST", "/v1/workspaces", b'{"name": ' + b"9" * 5000 + b"}"),
    ("POST", "/v1/workspaces", b'{"name": "' + b"x" * (2 << 20) + b'"}'),
    ("POST", "/v1/imports", b'{"name": "new", "source": "relative"}'),
    ("POST", "/v1/imports", b'{"name": "new", "source": "/a\\u0000b"}'),
    ("POST", "/v1/imports", b'{"name": "new", "source": "/\\ud800"}'),
    ("POST", "/v1/imports", b'{"name": "new", "source": "/x", "source_b64": "L3g="}'),
    ("POST", "/v1/imports", b'{"name": "new"}'),
    ("POST", "/v1/forks", b'{"ref": "ws", "name": "n", "count": 1e400}'),
    ("POST", "/v1/forks", b'{"ref": "ws", "name": "n", "count": true}'),
    ("POST", "/v1/workspaces/ws/checkpoint", b'{"message": "\\ud800"}'),
    ("POST", "/v1/workspaces/ws/checkpoint", b'{"creator": "\\ud800"}'),
    ("POST", "/v1/workspaces/ws/restore", b"{}"),
]


def test_wrong_requests(http: Client) -> None:
    answers = [(request, http.request(*request)) for request in WRONG]
    assert [(method, target[:80], answer) for (method, target, _), answer in answers if not is_error(answer)] == []


def test_what_is_not_http(http: Client, served: ServedStore) -> None:
    for junk in (
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"x" * 200_000,
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with connect_socket(str(served.path)) as sock:
            sock.settimeout(20)
            try:
                sock.sendall(junk)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                continue
    assert http.request("GET", "/v1/workspaces")[0] == 200


def test_changed_bodies(http: Client, served: ServedStore) -> None:
    random = Random("bodies")
    samples = {kind.__name__: json.dumps(fields).encode() for kind, fields in BODIES.items() if kind.__name__ in ROUTES}
    unforeseen = []
    for _ in range(FUZZED):
        name = random.choice(list(samples))
        body = random.choice((mutate, mutate_json, mutate_json))(random, samples[name])
        status, answer = http.request("POST", ROUTES[name], body)
        if status >= 500 or b'"internal"' in answer:
            unforeseen.append((name, body, status, answer))
    assert unforeseen == []
    assert served.engine.fsck() == []
