"""A workspace over blocks in memory: no engine, no settler, only its journal on disk."""

from __future__ import annotations

import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path

from cowfs.blocks.memory import MemoryBlocks
from cowfs.geometry import ROOT_INO, Geometry
from cowfs.layers.journal import Position
from cowfs.layers.layer import Layer
from cowfs.view.inode import Caller
from cowfs.view.state import State, new_inode
from cowfs.workspace import Branch, CheckpointOrder, Env, Workspace
from tests.support.roomy import TestDisk

ME = Caller(uid=0, gid=0, pid=1, umask=0o022)
START = 1_700_000_000_000_000_000


class MemoryWorkspace:
    """An empty workspace. ``clock`` counts ns; ``layers`` are those frozen so far, oldest first."""

    def __init__(self, path: Path, geometry: Geometry | None = None) -> None:
        self.geometry = geometry or Geometry()
        self.blocks = MemoryBlocks()
        self.clock: Callable[[], int] = count(START).__next__
        root = new_inode(State(self.blocks, self.geometry, None), ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 0, START)
        base = Layer("layer-0", "ws", None, {ROOT_INO: root}, (), 2, 1, root.blocks)
        journals = path / "journals"
        journals.mkdir()
        env = Env(self.blocks, self.geometry, journals, self.clock, TestDisk())
        self.branch = Branch("ws", "live-0", base, None, 2, Position(0, 0, 0))
        self.env = env
        self.workspace = Workspace(env, self.branch)
        self.layers = [base]

    def checkpoint(self) -> Layer:
        """Freeze what is live; the layer."""
        number = len(self.layers)
        order = CheckpointOrder(f"snap-{number}", f"live-{number}", "", allow_empty=True)
        self.layers += self.workspace.checkpoint(order).layers
        return self.layers[-1]

    def replayed(self) -> Workspace:
        """The workspace as a new process finds it."""
        found, _ = Workspace.open(self.env, self.branch, {layer.id: layer for layer in self.layers}.__getitem__)
        return found
