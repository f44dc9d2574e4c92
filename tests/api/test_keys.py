"""Idempotency keys: a request that comes again is answered, not carried out, again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from cowfs.catalog.catalog import Catalog
from cowfs.client.place import connect_socket
from cowfs.client.store import Store
from cowfs.engine import Engine
from cowfs.errors import Conflict, Invalid
from cowfs.formats.control import Idempotency
from cowfs.remembered import KEPT_NS, RESULT_BYTES_MAX, RESULTS_MAX, Removed, Request, encode_result
from tests.support.servedstore import ServedStore

ROOT = bytes(32)


def ask(served: ServedStore, method: str, target: str, body: object, key: str | list[str]) -> tuple[int, Any]:
    """(status, JSON) of one request with this key; a stream gives its last line."""
    data = b"" if body is None else json.dumps(body).encode()
    connection = HTTPConnection("cowfs")
    connection.sock = connect_socket(str(served.path))
    connection.putrequest(method, target)
    for each in [key] if isinstance(key, str) else key:
        connection.putheader("Idempotency-Key", each)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    answer = connection.getresponse()
    lines = answer.read().strip().splitlines()
    connection.close()
    return answer.status, json.loads(lines[-1]) if lines else None


@pytest.fixture
def ready(served: ServedStore, client: Store, tmp_path: Path) -> ServedStore:
    """A store with a workspace that has two snapshots, one more workspace, and a change."""
    client.create("ws")
    client.create("other")
    for number, label in enumerate(("one", "two")):
        served.write("ws", b"f", b"%d" % number)
        client.workspace("ws").checkpoint(label, label=label)
    client.workspace("ws").restore("@one")
    served.write("ws", b"f", b"changed")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("x")
    return served


VERBS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "create": ("POST", "/v1/workspaces", {"name": "new"}),
    "import": ("POST", "/v1/imports", {"name": "new", "source": "SOURCE"}),
    "checkpoint": ("POST", "/v1/workspaces/ws/checkpoint", {"message": "cp", "label": "three"}),
    "checkpoint of nothing": ("POST", "/v1/workspaces/other/checkpoint", {"message": "cp", "label": "three"}),
    "restore": ("POST", "/v1/workspaces/ws/restore", {"ref": "@two"}),
    "undo": ("POST", "/v1/workspaces/ws/restore", {"undo": True}),
    "fork": ("POST", "/v1/forks", {"ref": "ws", "name": "new", "count": 2}),
    "rename": ("POST", "/v1/workspaces/ws/rename", {"name": "renamed"}),
    "label": ("POST", "/v1/snapshots/ws@two/labels", {"label": "more"}),
    "remove": ("DELETE", "/v1/refs?ref=ws", None),
    "remove snapshot": ("DELETE", "/v1/refs?ref=ws@two", None),
}


@pytest.mark.parametrize("reopened", [False, True], ids=["", "reopened"])
@pytest.mark.parametrize("name", VERBS)
def test_the_same_request_gets_the_first_answer(
    ready: ServedStore, client: Store, tmp_path: Path, name: str, reopened: bool
) -> None:
    method, target, body = VERBS[name]
    if body is not None and "source" in body:
        body = body | {"source": str(tmp_path / "source")}
    first = ask(ready, method, target, body, "k-1")
    assert first[0] < 300
    rows = ready.engine.catalog.rows()
    if reopened:  # another engine finds it, too
        ready.engine.catalog.sync()
        with Catalog.open(_copied(ready, tmp_path)) as catalog:
            assert catalog.result("k-1") == ready.engine.catalog.result("k-1")
    assert ask(ready, method, target, body, "k-1") == first
    assert ready.engine.catalog.rows() == rows
    refused = ask(ready, "POST", "/v1/workspaces", {"name": "something-else"}, "k-1")
    assert (refused[0], refused[1]["error"]["code"]) == (Conflict.http_status, "conflict")
    assert ready.engine.catalog.rows() == rows


def _copied(served: ServedStore, tmp_path: Path) -> Path:
    to = tmp_path / "control"
    to.mkdir()
    (to / "log").write_bytes((served.path / "control" / "log").read_bytes())
    return to


def test_what_failed_is_tried_again(served: ServedStore, client: Store) -> None:
    client.create("ws")
    assert ask(served, "POST", "/v1/workspaces", {"name": "ws"}, "k")[0] == 409
    client.remove("ws")
    assert ask(served, "POST", "/v1/workspaces", {"name": "ws"}, "k")[0] == 201


def test_a_request_whose_first_is_running_waits_for_it(served: ServedStore, client: Store) -> None:
    client.create("ws")
    held, go_on = threading.Event(), threading.Event()
    checkpoint: Callable[..., Any] = served.engine.checkpoint

    def slow(*arguments: Any, **named: Any) -> Any:
        held.set()
        assert go_on.wait(20)
        return checkpoint(*arguments, **named)

    served.engine.checkpoint = slow  # type: ignore[method-assign]
    answers: list[tuple[int, Any]] = []
    target, body = "/v1/workspaces/ws/checkpoint", {"message": "m"}
    threads = [
        threading.Thread(target=lambda: answers.append(ask(served, "POST", target, body, "k"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert held.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 3
    assert answers[0] == answers[1] == answers[2]
    assert len(client.workspace("ws").log()) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é", ["a", "b"]])
def test_bad_keys_are_refused(served: ServedStore, client: Store, key: str | list[str]) -> None:
    status, answer = ask(served, "POST", "/v1/workspaces", {"name": "ws"}, key)
    assert (status, answer["error"]["code"]) == (Invalid.http_status, "invalid")
    assert client.workspaces() == []


def test_an_unmount_that_comes_again_is_done(served: ServedStore, client: Store) -> None:
    client.create("ws")
    client.mount("ws")
    assert ask(served, "DELETE", "/v1/mounts?ref=ws", None, "k")[0] == 204
    assert ask(served, "DELETE", "/v1/mounts?ref=ws", None, "other")[0] == 404


def test_results_expire_and_are_bounded(tmp_path: Path) -> None:
    now = [10**18]
    Engine.create_store(tmp_path / "store", lambda: now[0], bytes(16))
    ids = iter(range(10**6))
    engine = Engine.open(tmp_path / "store", lambda: now[0], lambda prefix: f"{prefix}-{next(ids)}")
    result = encode_result(Removed())

    def keep(key: str, data: bytes = result) -> None:
        engine.catalog.commit(Idempotency(key, now[0] + KEPT_NS, ROOT, data), sync=False)

    keep("first")
    now[0] += KEPT_NS - 1
    assert engine.keys.find(Request("first", ROOT)) == Removed()
    now[0] += 1
    assert engine.keys.find(Request("first", ROOT)) is None
    for number in range(RESULTS_MAX + 10):
        keep(f"k-{number}")
        now[0] += 1
    assert engine.catalog.result("first") is None
    assert engine.catalog.result("k-0") is None
    assert engine.catalog.result(f"k-{RESULTS_MAX + 9}") is not None
    assert RESULTS_MAX // 2 <= engine.catalog.statistics().rows - 1 <= RESULTS_MAX
    rows = engine.catalog.rows()
    engine.close()
    engine = Engine.open(tmp_path / "store", lambda: now[0], lambda prefix: f"{prefix}-{next(ids)}")
    assert engine.catalog.rows() == rows
    for number in range(4):
        keep(f"large-{number}", bytes(RESULT_BYTES_MAX // 3))
        now[0] += 1
    sizes = [len(row.result) for row in engine.catalog.rows() if isinstance(row, Idempotency)]
    assert sum(sizes) <= RESULT_BYTES_MAX
    assert engine.catalog.result("large-3") is not None
    now[0] += KEPT_NS
    engine.catalog.compact(now[0])
    assert not any(isinstance(row, Idempotency) for row in engine.catalog.rows())
    engine.close()
