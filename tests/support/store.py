"""An engine for tests: a clock and ids that count, everything in one folder, nothing in the background."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

from cowfs.engine import Engine
from cowfs.geometry import Geometry
from cowfs.workspace import Workspace


class Ids:
    """Ids in the order in which they are asked for; keep one per store, since ids are never given twice."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers):06d}"


class Ticks:
    """A clock in ns that goes on by one second at each look."""

    def __init__(self, start: int = 1_700_000_000_000_000_000) -> None:
        self.now = start

    def __call__(self) -> int:
        self.now += 1_000_000_000
        return self.now


class TestStore:
    """A store and its open engine; :meth:`reopen` is a clean stop and start."""

    __test__ = False

    def __init__(self, path: Path, clock: Callable[[], int] | None = None, geometry: Geometry | None = None) -> None:
        self.path = path
        self.clock = clock or Ticks()
        self.ids = Ids()
        Engine.create_store(path, self.clock, bytes(16), geometry)
        self.engine = Engine.open(path, self.clock, self.ids)

    def reopen(self) -> None:
        """Close the engine and open the store again."""
        self.engine.close()
        self.open()

    def open(self) -> None:
        """Open the store again after :meth:`close`."""
        self.engine = Engine.open(self.path, self.clock, self.ids)

    def kill(self) -> None:
        """What a killed process leaves is what a copy of its files holds now: go on with such a copy."""
        left = self.path.with_name(self.path.name + "-")
        shutil.copytree(self.path, left)
        self.engine.close()
        shutil.rmtree(self.path)
        self.path = left
        self.engine = Engine.open(self.path, self.clock, self.ids)

    def close(self) -> None:
        """Let go of the store."""
        self.engine.close()

    def workspace(self, name: str) -> Workspace:
        """The open workspace of that name: its ``lock`` and ``view``."""
        found = self.engine.host.workspace(self.engine.open_workspace(name))
        assert isinstance(found, Workspace)
        return found
