"""Every verb over the wire: the client's typed results are what the engine returned."""

import pytest

from cowfs.client.store import Store
from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound
from cowfs.results import Change
from tests.api.conftest import Served


def test_a_session(client: Store, served: Served) -> None:
    ws = client.create("ws-1")
    served.engine.live["ws-1"][b"a"] = b"1"
    done = ws.checkpoint("first", label="good", creator="me")
    assert done.changed
    assert done.snapshot == served.engine.snapshots[done.snapshot.id][0]
    assert done.snapshot.labels == ("good",)
    assert ws.checkpoint("again").changed is False
    served.engine.live["ws-1"][b"a"] = b"2"
    restored = ws.restore("@good")
    assert served.engine.live["ws-1"] == {b"a": b"1"}
    assert restored.undo is not None
    assert restored.undo.automatic
    assert [handle.gone for handle in restored.handles] == [False, True]
    ws.undo()
    assert served.engine.live["ws-1"] == {b"a": b"2"}
    assert [fork.name for fork in ws.fork("try", count=3)] == ["try-1", "try-2", "try-3"]
    assert [each.name for each in client.workspaces()] == ["ws-1", "try-1", "try-2", "try-3"]
    assert ws.log() == served.engine.log("ws-1")
    assert ws.info() == served.engine.workspaces["ws-1"]


def test_times_keep_their_nanoseconds(client: Store) -> None:
    assert client.create("ws").info().created_at == 1_700_000_000_123_456_789


def test_paths_need_not_be_utf8(client: Store, served: Served) -> None:
    ws = client.create("ws")
    ws.checkpoint("empty", label="empty", allow_empty=True)
    served.engine.live["ws"].update({b"bad\xff": b"x", b"moved": b"y", "ü".encode(): b"z"})
    assert ws.diff("@empty") == [
        Change("added", b"bad\xff"),
        Change("renamed", b"moved", b"was\xff"),
        Change("added", "ü".encode()),
    ]
    assert b"".join(client.show("ws", b"bad\xff")) == b"x"


def test_show_streams(client: Store, served: Served) -> None:
    client.create("ws")
    served.engine.live["ws"] = {b"big": b"0123456789" * 1000, b"empty": b""}
    assert b"".join(client.show("ws", "big")) == b"0123456789" * 1000
    assert b"".join(client.show("ws", "empty")) == b""
    with pytest.raises(NotFound, match="no file"):
        list(client.show("ws", "none"))


def test_import_reports_progress_then_its_result_or_its_error(client: Store) -> None:
    seen: list[object] = []
    assert client.import_tree("/tree", "ws", progress=seen.append).info().name == "ws"
    assert seen == [{"files": 1}, {"files": 2}]
    with pytest.raises(NotFound, match="vanished"):
        client.import_tree("/vanished", "other")
    with pytest.raises(Conflict):
        client.import_tree("/tree", "ws")


def test_mounts(client: Store, served: Served) -> None:
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


def test_an_unforeseen_error_is_internal_and_says_so(client: Store, served: Served) -> None:
    served.engine.workspaces = None  # type: ignore[assignment]
    with pytest.raises(CowfsError, match="AttributeError") as caught:
        client.workspaces()
    assert type(caught.value) is CowfsError
    assert caught.value.hint


def test_a_full_disk_is_no_space(client: Store, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(served.engine, "stat", full)
    with pytest.raises(CowfsError) as caught:
        client.stat()
    assert caught.value.code == "no_space"


def test_events_tell_what_happens(client: Store) -> None:
    events = client.events()
    assert next(events)["event"] == "listening"
    client.create("ws")
    created = next(events)
    assert (created["event"], created["workspace"]) == ("created", "ws")
    client.stop_daemon()
    assert list(events) == []
