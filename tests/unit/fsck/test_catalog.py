"""Every invariant of the catalog's tables: good ones are clean, and one broken thing at a time is found."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowfs.catalog import Catalog
from cowfs.catalog.tables import Tables
from cowfs.formats.control import (
    Froze,
    Labelled,
    LayerImported,
    Set,
    Settled,
    SnapshotMade,
    Span,
    WorkspaceCreated,
)
from cowfs.fsck import check_catalog

ROOT = b"r" * 32


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    """``ws-1`` with two snapshots on an import, the first settled; ``fork`` of the first."""
    with Catalog.open(tmp_path, create=True) as catalog:
        catalog.commit(
            LayerImported("lay-0", None, ROOT, 100),
            WorkspaceCreated("wsp-1", "ws-1", 1, "lay-1", "lay-0", None, None, None, 100),
            Froze("lay-1", "wsp-1", "lay-0", (Span(1, 2, 3),), 110, "lay-2"),
            SnapshotMade("snap-1", "wsp-1", None, "lay-1", "", ("good",), "", 1, False),
            Froze("lay-2", "wsp-1", "lay-1", (Span(1, 3, 4),), 120, "lay-3"),
            SnapshotMade("snap-2", "wsp-1", "snap-1", "lay-2", "", (), "", 1, False),
            WorkspaceCreated("wsp-2", "fork", 1, "lay-4", "lay-1", "snap-1", "wsp-1", "snap-1", 110),
            Labelled("wsp-2", "mine", "snap-1"),
            Set("wsp-2", "quota", b"1"),
            Settled("lay-1", ROOT, 1, 1),
            sync=False,
        )
        yield catalog.tables()


def problems(tables: Tables, roots: frozenset[bytes] = frozenset({ROOT})) -> list[str]:
    return [str(problem) for problem in check_catalog(tables, roots.__contains__)]


def layer(tables: Tables, key: str, **fields: object) -> None:
    tables.layers[key] = tables.layers[key]._replace(**fields)  # type: ignore[arg-type]


def workspace(tables: Tables, key: str, **fields: object) -> None:
    tables.workspaces[key] = tables.workspaces[key]._replace(**fields)  # type: ignore[arg-type]


def snapshot(tables: Tables, key: str, **fields: object) -> None:
    tables.snapshots[key] = tables.snapshots[key]._replace(**fields)  # type: ignore[arg-type]


def test_good_tables_are_clean(tables: Tables) -> None:
    assert problems(tables) == []


def test_a_missing_root_is_found(tables: Tables) -> None:
    assert problems(tables, frozenset()) == [
        f"layer lay-1: its root {ROOT.hex()} is not in the block store; affects ws-1, fork, ws-1@good, ws-1@snap-2"
    ]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: layer(t, "lay-2", parent="lay-x"), "its parent lay-x does not exist"),
        (lambda t: layer(t, "lay-1", parent="lay-x"), "its parent lay-x does not exist"),
        (lambda t: layer(t, "lay-2", parent=None), "do not lead to a settled layer"),
        (lambda t: layer(t, "lay-2", parent="lay-2"), "do not lead to a settled layer"),
        (lambda t: layer(t, "lay-1", spans=(Span(1, 2, 3),)), "still names journal files"),
        (lambda t: workspace(t, "wsp-1", name="fork"), "its name leads to another workspace"),
        (lambda t: workspace(t, "wsp-1", name="-"), "malformed workspace name"),
        (lambda t: workspace(t, "wsp-1", live_layer="lay-4"), "its live layer lay-4 is not its own"),
        (lambda t: t.layers.update({"lay-3": t.layers["lay-2"]}), "its live layer lay-3 is not its own"),
        (lambda t: workspace(t, "wsp-1", parent_layer="lay-x"), "its parent layer lay-x does not exist"),
        (lambda t: workspace(t, "wsp-1", next_ino=110), "inode numbers that its parent layer has used"),
        (lambda t: workspace(t, "wsp-1", head="snap-x"), "it names snapshot snap-x"),
        (lambda t: workspace(t, "wsp-2", origin_snapshot="snap-x"), "it names snapshot snap-x"),
        (lambda t: workspace(t, "wsp-2", origin_workspace="wsp-x"), "its ancestor wsp-x does not exist"),
        (lambda t: workspace(t, "wsp-1", origin_workspace="wsp-2"), "it descends from itself"),
        (lambda t: snapshot(t, "snap-2", workspace="wsp-x"), "its workspace wsp-x does not exist"),
        (lambda t: snapshot(t, "snap-2", layer="lay-x"), "its layer lay-x does not exist"),
        (lambda t: snapshot(t, "snap-2", ordinal=1), "impossible ordinal 1"),
        (lambda t: snapshot(t, "snap-2", ordinal=3), "impossible ordinal 3"),
        (lambda t: snapshot(t, "snap-2", parent="snap-x"), "its parent snap-x does not exist"),
        (lambda t: snapshot(t, "snap-1", parent="snap-2"), "its parent snap-2 is younger"),
        (lambda t: snapshot(t, "snap-2", id="snap-3"), "it is filed under snap-2"),
        (lambda t: t.labels["wsp-1"].update(good="snap-x"), "its snapshot snap-x does not exist"),
        (lambda t: t.labels["wsp-1"].update(latest="snap-1"), "latest cannot be a label"),
        (lambda t: t.labels["wsp-2"].update(mine="snap-2"), "is not in the workspace's line"),
        (lambda t: t.labels.update({"wsp-x": {}}), "labels of wsp-x"),
        (lambda t: t.settings.update({"wsp-x": {"quota": b"1"}}), "settings of wsp-x"),
        (lambda t: t.names.update(other="wsp-1"), "table of names"),
        (lambda t: t.live.update({"lay-9": "wsp-1"}), "table of live layers"),
        (lambda t: t.users.update({"lay-1": 9}), "table of users of layers"),
        (lambda t: t.owned["wsp-1"].pop("snap-1"), "table of owners of snapshots"),
        (lambda t: t.layer_children["lay-0"].clear(), "table of children of layers"),
        (lambda t: t.snapshot_children["snap-1"].clear(), "table of children of snapshots"),
        (lambda t: t.labelled["snap-1"].clear(), "table of labels of snapshots"),
    ],
)
def test_one_broken_thing_is_found(tables: Tables, damage: Callable[[Tables], object], expected: str) -> None:
    damage(tables)
    found = problems(tables)
    assert any(expected in problem for problem in found), found
