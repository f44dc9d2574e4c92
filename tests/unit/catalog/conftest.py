"""A catalog with one imported workspace, and short ways to change it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.catalog import Catalog
from cowfs.formats.control import Froze, LayerImported, SnapshotMade, Span, WorkspaceCreated


class Store:
    """A catalog in a directory, with a counter for ids and times."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.catalog = Catalog.open(directory, create=True, salt=99)
        self._number = 0

    def id(self, kind: str) -> str:
        """The next id: ``snap-``, ``lay-`` or ``wsp-`` and 20 digits."""
        self._number += 1
        return f"{kind}-{self._number:020x}"

    def reopen(self) -> None:
        """Close and read the log again."""
        self.catalog.close()
        self.catalog = Catalog.open(self.directory)

    def imported(self, name: str, next_ino: int = 100) -> str:
        """A workspace on an imported layer: its id."""
        layer, workspace = self.id("lay"), self.id("wsp")
        created = WorkspaceCreated(workspace, name, 1, self.id("lay"), layer, None, None, None, next_ino)
        root = bytes([self._number % 256]) * 32
        self.catalog.commit(LayerImported(layer, None, root, next_ino, 1, 1), created, sync=False)
        return workspace

    def checkpoint(
        self, workspace: str, *labels: str, automatic: bool = False, next_ino: int = 0, message: str = "m"
    ) -> str:
        """Freeze the live layer and make a snapshot of it: its id."""
        entry = self.catalog.workspace(workspace)
        snapshot = self.id("snap")
        self.catalog.commit(
            Froze(entry.live_layer, workspace, entry.parent_layer, (Span(1, 2, 3),), next_ino, self.id("lay")),
            SnapshotMade(snapshot, workspace, entry.head, entry.live_layer, message, labels, "me", 5, automatic),
            sync=False,
        )
        return snapshot

    def fork(self, workspace: str, snapshot: str, name: str) -> str:
        """A fork of a snapshot: the new workspace's id."""
        at = self.catalog.snapshot(snapshot)
        fork = self.id("wsp")
        created = WorkspaceCreated(fork, name, 1, self.id("lay"), at.layer, snapshot, workspace, snapshot, 1)
        self.catalog.commit(created, sync=False)
        return fork


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store's catalog, closed at the end; reading it again must give the same tables."""
    store = Store(tmp_path / "control")
    yield store
    before = store.catalog.rows()
    store.reopen()
    assert store.catalog.rows() == before
    store.catalog.compact()
    store.reopen()
    assert store.catalog.rows() == before
    store.catalog.close()
