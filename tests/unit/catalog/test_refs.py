"""The reference grammar, names and labels."""

from typing import TYPE_CHECKING

import pytest

from cowfs.catalog.names import check_label, check_new_name, check_workspace_name, fork_names
from cowfs.catalog.refs import (
    Reference,
    label_operations,
    line_of,
    parse,
    resolve,
    resolve_snapshot,
)
from cowfs.errors import Conflict, Invalid, NotFound
from cowfs.formats.control import Labelled, SnapshotMade, SnapshotRemoved, WorkspaceRemoved

if TYPE_CHECKING:
    from tests.unit.catalog.conftest import Store


@pytest.mark.parametrize("name", ["a", "ws-1", "A.b_c-9", "_x", "9", "x" * 255])
def test_good_names(name: str) -> None:
    assert check_workspace_name(name) == check_label(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", ".x", "a/b", "a\0b", "a@b", "a:b", "a b", "ä", "a\n", "snap-1", "x" * 256, "٣"]
)
def test_bad_workspace_names(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_workspace_name(name)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_name_that_no_new_workspace_gets() -> None:
    assert check_workspace_name("template") == "template"
    assert check_new_name("template-1") == "template-1"
    for refused in (check_new_name, lambda name: fork_names(name, None)):
        with pytest.raises(Invalid, match="template"):
            refused("template")


@pytest.mark.parametrize("label", ["", "-x", "latest", "a/b", "a@b", "a:b", "a b", "ä", "a\n", "x" * 256])
def test_bad_labels(label: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_label(label)
    assert caught.value.hint


def test_fork_names() -> None:
    assert fork_names("try", None) == ["try"]
    assert fork_names("try", 3) == ["try-1", "try-2", "try-3"]
    for name, count in (("try", 0), ("try", -1), ("x" * 254, 10), ("a/b", None)):
        with pytest.raises(Invalid):
            fork_names(name, count)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("ws", Reference("ws", None, None)),
        ("ws@latest", Reference("ws", "latest", None)),
        ("ws@-2", Reference("ws", "-2", None)),
        ("ws@good", Reference("ws", "good", None)),
        ("@good", Reference(None, "good", None)),
        ("@-1", Reference(None, "-1", None)),
        ("snap-0123", Reference(None, None, "snap-0123")),
        ("ws@snap-0123", Reference("ws", "snap-0123", None)),
    ],
)
def test_parse(text: str, parsed: Reference) -> None:
    assert parse(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "@", "ws@", "ws@@x", "ws@-",
     "ws@-0", "ws@-x", "ws@-01", "ws@a b", "a/b", "-ws", "../x@good", "ws@-" + "9" * 19,
     "snap-", "snap-012", "snap-XYZW", "snap-ABCD", "snap-0123@x", "ws:x", "ws\n", "@latest\n"],
)  # fmt: skip
def test_malformed_references(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_selectors(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first = store.checkpoint(workspace, "good")
    store.checkpoint(workspace, automatic=True)
    third = store.checkpoint(workspace)
    store.checkpoint(workspace, "undo", automatic=True)

    def named(text: str, given: str | None = None) -> str:
        return resolve_snapshot(store.catalog, text, given).id

    assert named("ws-1@latest") == named("ws-1@-1") == named("@latest", "ws-1") == third
    assert named("ws-1@-2") == named("ws-1@good") == named("@good", "ws-1") == named(first) == first
    assert store.catalog.snapshot(named("ws-1@undo")).automatic
    live = resolve(store.catalog, "ws-1")
    assert (live.workspace.id, live.snapshot) == (workspace, None)
    assert resolve(store.catalog, first).workspace.id == workspace
    with pytest.raises(Invalid, match="not a snapshot"):
        resolve_snapshot(store.catalog, "ws-1")
    with pytest.raises(Invalid, match="names no workspace"):
        resolve(store.catalog, "@good")
    for text in ("ws-1@-3", "ws-1@nope", "nope@latest", "nope", "snap-ffff"):
        with pytest.raises(NotFound) as caught:
            resolve(store.catalog, text)
        assert caught.value.hint
    store.imported("empty")
    with pytest.raises(NotFound, match="no snapshot yet"):
        resolve(store.catalog, "empty@latest")


def test_prefixes(store: "Store") -> None:
    workspace = store.imported("ws-1")
    layer = store.catalog.workspace(workspace).parent_layer
    for digits in ("abcd0", "abcd1", "abce", "abcef"):
        store.catalog.commit(SnapshotMade(f"snap-{digits}", workspace, None, layer, "", (), "", 1, False), sync=False)
    assert resolve(store.catalog, "snap-abcd0").snapshot == store.catalog.snapshot("snap-abcd0")
    exact = resolve(store.catalog, "snap-abce").snapshot
    assert exact is not None
    assert exact.id == "snap-abce"
    with pytest.raises(Conflict, match="snap-abcd0, snap-abcd1"):
        resolve(store.catalog, "snap-abcd")


def test_a_fork_resolves_its_ancestors_after_its_own(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first = store.checkpoint(workspace, "good", "old")
    second = store.checkpoint(workspace)
    fork = store.fork(workspace, second, "fork")
    later = store.checkpoint(workspace, "late")
    nested = store.fork(fork, second, "nested")

    def named(text: str) -> str:
        return resolve_snapshot(store.catalog, text).id

    for name in ("fork", "nested"):
        assert named(f"{name}@good") == named(f"{name}@-2") == first
        assert named(f"{name}@latest") == second
        with pytest.raises(NotFound):
            named(f"{name}@late")
    own = store.checkpoint(fork, "good")
    assert named("fork@good") == named("fork@latest") == own
    assert named("fork@-2") == second
    assert named("nested@good") == first
    assert [snapshot.id for snapshot in line_of(store.catalog, fork)] == [own, second, first]
    assert [snapshot.id for snapshot in line_of(store.catalog, nested)] == [second, first]
    assert [snapshot.id for snapshot in line_of(store.catalog, workspace)] == [later, second, first]
    store.catalog.commit(*label_operations(store.catalog, workspace, "good", later, move=True), sync=False)
    with pytest.raises(NotFound):
        named("nested@good")
    store.catalog.commit(SnapshotRemoved(own), sync=False)
    with pytest.raises(NotFound):
        named("fork@good")


def test_labels_are_unique_and_move_when_told(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first, second = store.checkpoint(workspace, "good"), store.checkpoint(workspace)
    assert label_operations(store.catalog, workspace, "good", first) == ()
    for snapshot in (second, None):
        with pytest.raises(Conflict, match="belongs to"):
            label_operations(store.catalog, workspace, "good", snapshot)
    assert label_operations(store.catalog, workspace, "new", None) == ()
    moved = label_operations(store.catalog, workspace, "good", second, move=True)
    assert moved == (Labelled(workspace, "good", second),)
    store.catalog.commit(*moved, sync=False)
    assert resolve_snapshot(store.catalog, "ws-1@good").id == second
    assert store.catalog.labels_of(first) == ()


def test_the_nearest_fork_point_bounds_every_ancestor(store: "Store") -> None:
    workspace = store.imported("ws-1")
    first = store.checkpoint(workspace)
    second = store.checkpoint(workspace)
    fork = store.fork(workspace, second, "fork")
    third = store.checkpoint(workspace)
    own = store.checkpoint(fork)
    early = store.fork(fork, first, "early")
    late = store.fork(fork, own, "late")

    def line(workspace: str) -> list[str]:
        return [snapshot.id for snapshot in line_of(store.catalog, workspace)]

    assert line(early) == [first]
    assert line(late) == [own, second, first]
    store.catalog.commit(WorkspaceRemoved(fork), sync=False)
    assert line(early) == [first]
    assert line(late) == [second, first]
    assert line(workspace) == [third, second, first]
