"""One workspace without a store: blocks in memory, journal in a folder, layers settled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from cowfs.blocks.memory import MemoryBlocks
from cowfs.formats import control
from cowfs.geometry import DIRECTORY_BLOCKS, SECTOR, Geometry
from cowfs.host import BranchSpec, Host, LayerSpec
from cowfs.layers.journal import Limits, file_path
from cowfs.layers.layer import Span
from cowfs.settle.delta import settle_layer
from cowfs.settle.importer import make_root
from cowfs.view.reading import ReadView
from cowfs.view.view import View
from cowfs.workspace import CheckpointOrder, Env, Workspace
from tests.support.counted import check_counters
from tests.support.lab import Files, Ids, Ticks
from tests.support.rested import check_rested
from tests.support.roomy import TestDisk
from tests.support.treehash import TreeHash, hash_view

NAME = "wsp-1"


class Single:
    """``workspace`` and its ``view``; ``base`` is the root that it began with."""

    def __init__(self, folder: Path, geometry: Geometry | None = None, limits: Limits | None = None) -> None:
        self.geometry = geometry or Geometry()
        self.blocks = MemoryBlocks()
        self.clock, self.ids = Ticks(), Ids()
        folder.mkdir(exist_ok=True)
        self.base = make_root(self.blocks, self.geometry, 0o40755, 0, 0, self.clock())
        self.env = Env(self.blocks, self.geometry, folder, self.clock, TestDisk(), limits or Limits())
        self.layers = [LayerSpec("lay-0", "", None, (), 2, self.base, DIRECTORY_BLOCKS * SECTOR)]
        self.host = Host(self.env)
        self.open(self.host)

    def open(self, host: Host) -> Workspace:
        """Open the workspace in a host as if nothing of its journal were known: everything is replayed."""
        host.open(BranchSpec(NAME, "lay-1", (self.layers[0],), None, 2, (0, 0, 0)), {"lay-0": self.layers[0]})
        return host.workspace(NAME)

    @property
    def workspace(self) -> Workspace:
        """The workspace as it is served."""
        return self.host.workspace(NAME)

    @property
    def view(self) -> View:
        """Its view."""
        return self.workspace.view

    @property
    def files(self) -> Files:
        """Operations by path."""
        return Files(self.view)

    @property
    def journal(self) -> Path:
        """The newest journal file."""
        return file_path(self.env.journals, NAME, self.workspace.journal.position.file_no)

    def checkpoint(self) -> None:
        """Freeze the live layer."""
        done = self.host.checkpoint(NAME, CheckpointOrder(self.ids("snap"), self.ids("lay"), "m"))
        for froze in done.operations:
            if isinstance(froze, control.Froze):
                spec = LayerSpec(froze.layer, NAME, froze.parent_layer, froze.spans, froze.next_ino, None)
                self.layers.append(spec)

    def settle(self) -> None:
        """Settle every frozen layer, and read from what was settled."""
        for index, layer in enumerate(self.layers):
            if layer.root is None:
                below = self.layers[index - 1]
                root, contents, grown = self._settled(below.root or b"", layer.spans)
                self.layers[index] = layer._replace(root=root, logical_bytes=below.logical_bytes + grown)
                self.host.settled(layer.id, root, contents)

    def _settled(self, parent: bytes, spans: tuple[Span, ...]) -> tuple[bytes, Any, int]:
        places = [(str(file_path(self.env.journals, NAME, number)), start, end) for number, start, end in spans]
        blocks = cast(Any, self.blocks)
        done = settle_layer(blocks, blocks, self.geometry, parent, places)
        return done.root, done.contents, done.logical_bytes

    def hash(self, view: ReadView | None = None) -> TreeHash:
        """Content, metadata, numbers and holes."""
        return hash_view(view or self.view, identity=True, holes=True)

    def replayed(self) -> View:
        """The view that a successor gets, from the journal alone."""
        return self.open(Host(self.env)).view

    def settled(self) -> ReadView:
        """What everything so far is at rest, read from blocks alone."""
        self.checkpoint()
        self.settle()
        last = self.layers[-1]
        chain = (last._replace(root=last.root),)
        host = Host(self.env)
        host.open(BranchSpec("wsp-2", "lay-x", chain, None, last.next_ino, (0, 0, 0)), {})
        return host.workspace("wsp-2").view

    def check(self) -> None:
        """Live, replayed and at rest it is the same, and counted right."""
        live = self.hash()
        replayed, settled = self.replayed(), self.settled()
        for view in (self.view, replayed, settled):
            check_counters(view)
        assert self.hash(replayed) == live, "replay gives another state"
        assert self.hash(settled) == live, "the settled state differs"
        assert self.hash() == live, "settling changed the live view"
        files = sum(1 for _ in {facts.identity[0] for facts in live.facts.values() if facts.identity})
        assert self.view.state.files == files, "the count of inodes is wrong"
        assert check_rested(self.blocks, self.geometry) >= files
