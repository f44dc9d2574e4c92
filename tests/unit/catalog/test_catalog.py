"""What each operation does to the tables, and when it is refused."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowfs.catalog import Catalog
from cowfs.errors import Conflict, Invalid, NotFound
from cowfs.formats.control import (
    Froze,
    Idempotency,
    Labelled,
    LayerImported,
    LayersDropped,
    Position,
    Renamed,
    Restored,
    Set,
    Settled,
    SnapshotMade,
    SnapshotRemoved,
    Span,
    WorkspaceCreated,
    WorkspaceRemoved,
)

if TYPE_CHECKING:
    from tests.unit.catalog.conftest import Store

ROOT = b"r" * 32


def test_a_checkpoint_freezes_a_layer_and_moves_the_head(store: "Store") -> None:
    workspace = store.imported("ws-1")
    before = store.catalog.workspace(workspace)
    snapshot = store.checkpoint(workspace, "good", next_ino=140)
    entry = store.catalog.by_name("ws-1")
    assert entry.head == snapshot
    assert entry.parent_layer == before.live_layer
    assert entry.next_ino == 140
    made = store.catalog.snapshot(snapshot)
    assert (made.layer, made.parent, made.automatic, made.ordinal) == (before.live_layer, None, False, 1)
    assert store.catalog.labels_of(snapshot) == ("good",)
    layer = store.catalog.layer(before.live_layer)
    assert (layer.spans, layer.root, layer.next_ino) == ((Span(1, 2, 3),), None, 140)
    assert [link.id for link in store.catalog.chain(layer.id)] == [layer.id, before.parent_layer]
    assert [child.id for child in store.catalog.children(before.parent_layer)] == [layer.id]


def test_next_ino_never_goes_down(store: "Store") -> None:
    workspace = store.imported("ws-1", next_ino=500)
    snapshot = store.checkpoint(workspace, next_ino=20)
    assert store.catalog.workspace(workspace).next_ino == 500
    layer = store.catalog.snapshot(snapshot).layer
    store.catalog.commit(Restored(workspace, snapshot, store.id("lay"), layer, 30), sync=False)
    assert store.catalog.workspace(workspace).next_ino == 500


def test_settling_ends_chains_and_frees_journals(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first, second = store.checkpoint(workspace), store.checkpoint(workspace)
    lower, upper = store.catalog.snapshot(first).layer, store.catalog.snapshot(second).layer
    assert store.catalog.journal_files() == {(workspace, 1)}
    assert len(store.catalog.chain(upper)) == 3
    store.catalog.commit(Settled(lower, ROOT, 7, 8), sync=False)
    assert [layer.id for layer in store.catalog.chain(upper)] == [upper, lower]
    settled = store.catalog.layer(lower)
    assert (settled.root, settled.spans, settled.logical_bytes, settled.inodes) == (ROOT, (), 7, 8)
    store.catalog.commit(Settled(lower, ROOT, 7, 8), Settled(upper, ROOT, 7, 8), sync=False)
    assert store.catalog.journal_files() == set()
    with pytest.raises(Conflict, match="another root"):
        store.catalog.commit(Settled(lower, b"x" * 32, 7, 8), sync=False)


def test_restore_goes_back_in_the_line_only(store: "Store") -> None:
    workspace, other = store.imported("ws-1"), store.imported("ws-2")
    first, second, foreign = store.checkpoint(workspace), store.checkpoint(workspace), store.checkpoint(other)
    fork = store.fork(workspace, first, "fork")
    layer = {snapshot: store.catalog.snapshot(snapshot).layer for snapshot in (first, second, foreign)}
    store.catalog.commit(Restored(workspace, first, store.id("lay"), layer[first], 0), sync=False)
    assert store.catalog.workspace(workspace).head == first
    assert store.catalog.workspace(workspace).parent_layer == layer[first]
    store.catalog.commit(Restored(workspace, second, store.id("lay"), layer[second], 0), sync=False)
    store.catalog.commit(Restored(fork, first, store.id("lay"), layer[first], 0), sync=False)
    for at, snapshot in ((fork, second), (workspace, foreign)):
        with pytest.raises(Conflict, match="not in the line"):
            store.catalog.commit(Restored(at, snapshot, store.id("lay"), layer[snapshot], 0), sync=False)
    with pytest.raises(Conflict, match="not of layer"):
        store.catalog.commit(Restored(workspace, first, store.id("lay"), layer[second], 0), sync=False)


def test_a_group_is_applied_whole_or_not_at_all(store: "Store") -> None:
    workspace = store.imported("ws-1")
    snapshot = store.checkpoint(workspace, "good")
    layer = store.catalog.snapshot(snapshot).layer
    before, size = store.catalog.rows(), store.catalog.statistics().log_bytes
    made = [WorkspaceCreated(store.id("wsp"), f"try-{n}", 1, store.id("lay"), layer, None, None, None, 1) for n in "12"]
    with pytest.raises(Conflict, match="ws-1 exists already"):
        store.catalog.commit(
            *made,
            Labelled(workspace, "good", None),
            Set(workspace, "quota", b"1"),
            SnapshotRemoved(snapshot),
            WorkspaceRemoved(workspace),
            Renamed(made[0].id, "ws-1"),
            Renamed(made[1].id, "ws-1"),
            sync=True,
        )
    assert store.catalog.rows() == before
    assert store.catalog.statistics().log_bytes == size
    store.catalog.commit(*made, sync=True)
    assert {entry.name for entry in store.catalog.workspaces.values()} == {"ws-1", "try-1", "try-2"}


def test_removing_a_snapshot_closes_the_gap(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first, second, third = (store.checkpoint(workspace, label) for label in ("a", "b", "c"))
    fork = store.fork(workspace, second, "fork")
    store.catalog.commit(Labelled(fork, "mine", second), Set(second, "pin", b"1"), sync=False)
    store.catalog.commit(SnapshotRemoved(second), sync=False)
    assert store.catalog.snapshot(third).parent == first
    assert store.catalog.workspace(fork).head is None
    assert store.catalog.workspace(fork).origin_snapshot is None
    assert dict(store.catalog.labels(fork)) == {}
    assert dict(store.catalog.labels(workspace)) == {"a": first, "c": third}
    assert dict(store.catalog.settings(second)) == {}
    with pytest.raises(NotFound, match="no snapshot"):
        store.catalog.snapshot(second)
    assert store.catalog.in_line(fork, store.catalog.snapshot(first))
    assert not store.catalog.in_line(fork, store.catalog.snapshot(third))


def test_removing_a_workspace_leaves_what_forks_need(store: "Store") -> None:
    workspace = store.imported("ws-1")
    base = store.catalog.workspace(workspace).parent_layer
    first = store.checkpoint(workspace, "good")
    middle = store.fork(workspace, first, "middle")
    second, spare = store.checkpoint(middle), store.checkpoint(middle)
    needed = [store.catalog.snapshot(snapshot).layer for snapshot in (first, second)]
    unneeded = store.catalog.snapshot(spare).layer
    leaf = store.fork(middle, second, "leaf")
    store.catalog.commit(WorkspaceRemoved(middle), sync=False)
    assert store.catalog.workspace(leaf).head is None
    assert store.catalog.workspace(leaf).origin_workspace == workspace
    assert store.catalog.in_line(leaf, store.catalog.snapshot(first))
    assert [layer.id for layer in store.catalog.unreachable()] == [unneeded]
    assert [layer.id for layer in store.catalog.chain(store.catalog.workspace(leaf).parent_layer)] == [
        needed[1], needed[0], base,
    ]  # fmt: skip
    with pytest.raises(NotFound):
        store.catalog.by_name("middle")
    later = store.imported("middle")
    assert store.catalog.by_name("middle").id == later
    store.catalog.commit(WorkspaceRemoved(workspace), sync=False)
    assert store.catalog.workspace(leaf).origin_workspace is None
    bases = (base, store.catalog.workspace(later).parent_layer)
    assert store.catalog.roots() == {store.catalog.layer(layer).root for layer in bases}


def test_only_unneeded_layers_are_dropped(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first, second = store.checkpoint(workspace), store.checkpoint(workspace)
    lower, upper = store.catalog.snapshot(first).layer, store.catalog.snapshot(second).layer
    base = store.catalog.layer(lower).parent
    assert base is not None
    store.catalog.commit(SnapshotRemoved(first), sync=False)
    with pytest.raises(Conflict, match="still needed"):
        store.catalog.commit(LayersDropped((lower,)), sync=False)
    store.catalog.commit(Settled(lower, ROOT, 1, 1), Settled(upper, ROOT, 1, 1), sync=False)
    assert {layer.id for layer in store.catalog.unreachable()} == {base, lower}
    store.catalog.commit(LayersDropped((lower,)), sync=False)
    assert store.catalog.layer(upper).parent == base
    store.catalog.commit(LayersDropped((base,)), sync=False)
    assert store.catalog.layer(upper).parent is None
    assert set(store.catalog.layers) == {upper} == store.catalog.needed()


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Froze("lay-none", "WSP", "BASE", (), 1, "lay-new"), Conflict),
        (Froze("LIVE", "WSP", None, (), 1, "lay-new"), Conflict),
        (Froze("LIVE", "WSP", "BASE", (), 1, "LIVE"), Conflict),
        (Froze("LIVE", "wsp-none", "BASE", (), 1, "lay-new"), NotFound),
        (LayerImported("BASE", None, ROOT, 1), Conflict),
        (LayerImported("LIVE", None, ROOT, 1), Conflict),
        (LayerImported("lay-new", "lay-none", ROOT, 1), NotFound),
        (LayerImported("lay-new", None, b"short", 1), Invalid),
        (WorkspaceCreated("WSP", "new", 1, "lay-new", "BASE", None, None, None, 1), Conflict),
        (WorkspaceCreated("wsp-new", "ws-1", 1, "lay-new", "BASE", None, None, None, 1), Conflict),
        (WorkspaceCreated("wsp-new", "a/b", 1, "lay-new", "BASE", None, None, None, 1), Invalid),
        (WorkspaceCreated("wsp-new", "new", 1, "LIVE", "BASE", None, None, None, 1), Conflict),
        (WorkspaceCreated("wsp-new", "new", 1, "lay-new", "lay-none", None, None, None, 1), NotFound),
        (WorkspaceCreated("wsp-new", "new", 1, "lay-new", "BASE", "snap-none", None, None, 1), NotFound),
        (WorkspaceCreated("wsp-new", "new", 1, "lay-new", "BASE", None, "wsp-none", None, 1), NotFound),
        (WorkspaceCreated("wsp-new", "new", 1, "lay-new", "BASE", None, None, "SNAP", 1), Conflict),
        (SnapshotMade("SNAP", "WSP", None, "BASE", "", (), "", 1, False), Conflict),
        (SnapshotMade("snap-new", "wsp-none", None, "BASE", "", (), "", 1, False), NotFound),
        (SnapshotMade("snap-new", "WSP", None, "lay-none", "", (), "", 1, False), NotFound),
        (SnapshotMade("snap-new", "WSP", None, "BASE", "", ("a b",), "", 1, False), Invalid),
        (SnapshotMade("snap-new", "WSP", None, "BASE", "x" * 70000, (), "", 1, False), Invalid),
        (SnapshotMade("snap-new", "WSP", None, "BASE", "\udcff", (), "", 1, False), Invalid),
        (SnapshotMade("snap new", "WSP", None, "BASE", "", (), "", 1, False), Invalid),
        (SnapshotRemoved("snap-none"), NotFound),
        (WorkspaceRemoved("wsp-none"), NotFound),
        (Renamed("WSP", "-x"), Invalid),
        (Renamed("wsp-none", "new"), NotFound),
        (Labelled("WSP", "none", None), NotFound),
        (Labelled("WSP", "latest", "SNAP"), Invalid),
        (Labelled("WSP", "new", "snap-none"), NotFound),
        (Set("wsp-none", "quota", b"1"), NotFound),
        (Settled("lay-none", ROOT, 1, 1), NotFound),
        (Position("WSP", 1, 1, 6), Conflict),
        (Position("WSP", 1, -1, 8), Invalid),
        (LayersDropped(("lay-none",)), NotFound),
        (Idempotency("k", 1 << 63, bytes(32), b""), Invalid),
    ],
)
def test_what_is_refused_changes_nothing(store: "Store", operation: object, error: type[Exception]) -> None:
    workspace = store.imported("ws-1")
    snapshot = store.checkpoint(workspace, "good")
    store.catalog.commit(Position(workspace, 1, 10, 7), sync=False)
    entry = store.catalog.workspace(workspace)
    names = {"WSP": workspace, "SNAP": snapshot, "LIVE": entry.live_layer, "BASE": entry.parent_layer}
    assert isinstance(operation, tuple)
    operation = type(operation)(*(names.get(value, value) if isinstance(value, str) else value for value in operation))
    before, size = store.catalog.rows(), store.catalog.statistics().log_bytes
    with pytest.raises(error) as caught:
        store.catalog.commit(operation, sync=True)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert store.catalog.rows() == before
    assert store.catalog.statistics().log_bytes == size


def test_a_parent_that_was_removed_meanwhile_is_none(store: "Store") -> None:
    workspace = store.imported("ws-1")
    snapshot = store.checkpoint(workspace)
    layer = store.catalog.snapshot(snapshot).layer
    store.catalog.commit(SnapshotRemoved(snapshot), sync=False)
    late = SnapshotMade("snap-late", workspace, snapshot, layer, "", (), "", 1, False)
    store.catalog.commit(late, sync=False)
    assert store.catalog.snapshot("snap-late").parent is None


def test_renaming_frees_the_old_name(store: "Store") -> None:
    workspace = store.imported("ws-1")
    store.catalog.commit(Renamed(workspace, "ws-2"), Renamed(workspace, "ws-2"), sync=False)
    other = store.imported("ws-1")
    assert store.catalog.by_name("ws-2").id == workspace
    assert store.catalog.by_name("ws-1").id == other


def test_settings_and_results(store: "Store") -> None:
    workspace = store.imported("ws-1")
    store.catalog.commit(Set(workspace, "quota", b"5"), Set("store", "retention", b"9"), sync=False)
    store.catalog.commit(Idempotency("old", 10, ROOT, b"a"), Idempotency("new", 20, ROOT, b"b"), sync=False)
    assert dict(store.catalog.settings(workspace)) == {"quota": b"5"}
    assert dict(store.catalog.settings("store")) == {"retention": b"9"}
    store.catalog.commit(Set(workspace, "quota", None), Set(workspace, "never", None), sync=False)
    assert dict(store.catalog.settings(workspace)) == {}
    store.catalog.compact(now=10)
    assert store.catalog.result("old") is None
    assert store.catalog.result("new") == Idempotency("new", 20, ROOT, b"b")
    store.catalog.commit(Set(workspace, "ttl", b"1"), WorkspaceRemoved(workspace), sync=False)
    assert dict(store.catalog.settings(workspace)) == {}


def test_views_cannot_be_written(store: "Store") -> None:
    workspace = store.imported("ws-1")
    store.checkpoint(workspace, "good")
    views = (store.catalog.workspaces, store.catalog.labels(workspace), store.catalog.settings("store"))
    for view in views:
        with pytest.raises(TypeError):
            view["x"] = "y"  # type: ignore[index]
    with pytest.raises(TypeError, match="rows"):
        store.catalog.commit(store.catalog.workspace(workspace), sync=False)  # type: ignore[arg-type]


def test_opening_needs_a_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no control log"):
        Catalog.open(tmp_path)
    Catalog.open(tmp_path / "control", create=True).close()
    assert [path.name for path in (tmp_path / "control").iterdir()] == ["log"]
    with Catalog.open(tmp_path / "control", create=True) as again:
        assert again.statistics().sequence == 0
