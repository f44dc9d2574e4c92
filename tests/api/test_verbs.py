"""Every verb over the wire: the client's typed results are what the engine returned."""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.client import decode
from cowfs.client.decode import time_ns
from cowfs.client.store import Store
from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound
from cowfs.results import Change
from cowfs_daemon.api import shapes
from cowfs_daemon.api.shapes import rfc3339
from tests.support.servedstore import ServedStore


def test_a_session(client: Store, served: ServedStore) -> None:
    ws = client.create("ws-1")
    served.write("ws-1", b"a", b"1")
    done = ws.checkpoint("first", label="good", creator="me")
    assert done.changed
    assert done.snapshot == served.engine.snapshot(done.snapshot.id)
    assert done.snapshot.labels == ("good",)
    assert ws.checkpoint("again").changed is False
    served.write("ws-1", b"a", b"2")
    restored = ws.restore("@good")
    assert served.read("ws-1", b"a") == b"1"
    assert restored.undo is not None
    assert restored.undo.automatic
    assert restored.changed_inodes > 0
    ws.undo()
    assert served.read("ws-1", b"a") == b"2"
    assert [fork.name for fork in ws.fork("try", count=3)] == ["try-1", "try-2", "try-3"]
    assert [each.name for each in client.workspaces()] == ["try-1", "try-2", "try-3", "ws-1"]
    assert ws.log() == served.engine.log("ws-1")
    assert ws.info() == served.engine.workspace("ws-1")


@pytest.mark.parametrize("at", [0, 1, 999_999_999, 1_700_000_000_123_456_789, 2**62])
def test_times_keep_their_nanoseconds(at: int) -> None:
    assert time_ns(rfc3339(at)) == at


def test_paths_need_not_be_utf8(client: Store, served: ServedStore) -> None:
    ws = client.create("ws")
    ws.checkpoint("empty", label="empty", allow_empty=True)
    for name in (b"bad\xff", b"d/\xfe\n", "ü".encode()):
        served.write("ws", name, b"x")
    added = [change.path for change in ws.diff("@empty") if change.change == "added"]
    assert sorted(added) == sorted([b"bad\xff", b"d", b"d/\xfe\n", "ü".encode()])
    assert decode.change(shapes.change(Change("renamed", b"\xff", b"a\xfe"))) == Change("renamed", b"\xff", b"a\xfe")
    assert b"".join(client.show("ws", b"bad\xff")) == b"x"


def test_show_streams(client: Store, served: ServedStore) -> None:
    client.create("ws")
    served.write("ws", b"big", b"0123456789" * 300_000)
    served.write("ws", b"empty", b"")
    assert b"".join(client.show("ws", "big")) == b"0123456789" * 300_000
    assert b"".join(client.show("ws", "empty")) == b""
    with pytest.raises(NotFound, match="no such file"):
        list(client.show("ws", "none"))


def test_import_reports_progress_then_its_result_or_its_error(client: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree\udcff"
    tree.mkdir()
    (tree / "a").write_text("a")
    (tree / "b.pyc").write_text("b")
    seen: list[dict[str, int]] = []
    made = client.import_tree(tree, "ws", exclude=["*.pyc"], ttl=3600, progress=seen.append)
    assert b"".join(client.show("ws", "a")) == b"a"
    with pytest.raises(NotFound):
        next(client.show("ws", "b.pyc"))
    assert (made.info().name, made.info().settings) == ("ws", {"ttl": 3600})
    assert seen[-1]["files"] >= 2
    with pytest.raises(NotFound, match="vanished"):
        client.import_tree(tmp_path / "vanished", "other")
    with pytest.raises(Conflict):
        client.import_tree(tree, "ws")


def test_mounts(client: Store, served: ServedStore) -> None:
    ws = client.create("ws")
    assert ws.info().mounted is False
    assert ws.path == "/mounts/ws"
    assert ws.info().path == "/mounts/ws"
    served.mounts.busy = True
    with pytest.raises(Busy, match="12"):
        ws.umount()
    with pytest.raises(Busy):
        client.stop_daemon()
    with pytest.raises(Busy):
        ws.remove()
    ws.remove(force=True)
    assert client.workspaces() == []
    served.mounts.busy = False


def test_labels_names_and_usage(client: Store) -> None:
    ws = client.create("ws")
    made = ws.checkpoint("x").snapshot
    assert client.label("ws@latest", "good").labels == ("good",)
    assert client.snapshot("ws@good").id == made.id
    renamed = ws.rename("other")
    assert renamed.info().name == "other"
    assert [usage.name for usage in client.stat().workspaces] == ["other"]
    client.remove(made.id)


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "\0", "x" * 256, "\udcff", "a b", "%2F", "a?b", "a#b"])
def test_hostile_names_are_refused_in_every_place(client: Store, name: str) -> None:
    for attempt in (
        lambda: client.workspace(name).log(),
        lambda: client.workspace(name).checkpoint("m"),
        lambda: client.workspace(name).restore("@x"),
        lambda: client.fork("missing", name),
        lambda: client.diff(name, name),
    ):
        with pytest.raises((Invalid, NotFound)):
            attempt()
    assert client.workspaces() == []


def test_an_unforeseen_error_is_internal_and_says_so(
    client: Store, served: ServedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.engine, "list", None)
    with pytest.raises(CowfsError, match="TypeError") as caught:
        client.workspaces()
    assert type(caught.value) is CowfsError
    assert caught.value.hint


def test_a_full_disk_is_no_space(client: Store, served: ServedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(served.engine, "stat", full)
    with pytest.raises(CowfsError) as caught:
        client.stat()
    assert caught.value.code == "no_space"


def test_events_tell_what_happens(client: Store, tmp_path: Path) -> None:
    events = client.events()
    assert next(events)["event"] == "listening"
    client.create("ws")
    created = next(events)
    assert (created["event"], created["workspace"]) == ("created", "ws")
    (tmp_path / "tree").mkdir()
    client.import_tree(tmp_path / "tree", "imported")
    with pytest.raises(Conflict):
        client.import_tree(tmp_path / "tree", "imported")
    client.create("last")
    for name in ("imported", "last"):
        created = next(events)
        assert (created["event"], created["workspace"]) == ("created", name)
    client.stop_daemon()
    assert list(events) == []


def test_a_difference_with_a_limit_says_whether_there_is_more(served: ServedStore, client: Store) -> None:
    ws = client.create("ws")
    ws.checkpoint(label="empty", allow_empty=True)
    names = [b"%03d" % number for number in range(shapes.ENCODED_AT_ONCE + 1)]
    for name in names:
        served.write("ws", name, b"")
    assert [each.path for each in ws.diff("@empty")] == names
    for limit in (1, len(names) - 1, len(names), len(names) + 1):
        changes, more = ws.first_changes("@empty", None, limit)
        assert ([each.path for each in changes], more) == (names[:limit], limit < len(names))
    with pytest.raises(Invalid):
        ws.first_changes("@empty", None, 0)


class Watched(list[Any]):
    """Says in which thread it was read."""

    def __init__(self, values: Iterable[Any], readers: set[threading.Thread]) -> None:
        super().__init__(values)
        self._readers = readers

    def __iter__(self) -> Iterator[Any]:
        self._readers.add(threading.current_thread())
        return super().__iter__()


@pytest.mark.parametrize("verb", ["list", "log", "diff"])
def test_no_long_answer_is_made_by_the_thread_that_serves_all(
    served: ServedStore, client: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    ws = client.create("ws")
    ws.checkpoint(label="empty", allow_empty=True)
    readers: set[threading.Thread] = set()
    asked = getattr(served.engine, verb)
    monkeypatch.setattr(served.engine, verb, lambda *arguments: Watched(asked(*arguments), readers))
    ask: dict[str, Callable[[], object]] = {"list": client.workspaces, "log": ws.log, "diff": lambda: ws.diff("@empty")}
    ask[verb]()
    assert readers
    assert served.thread not in readers
