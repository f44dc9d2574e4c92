"""A store with workspaces that are really mounted, in this process; leaves no mount behind, whatever happens."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowfs.engine import Engine
from cowfs.geometry import Geometry
from cowfs.workspace import Workspace
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport
from tests.support.lab import InlineSettler

_connections = itertools.count(1)


def random_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}-{os.urandom(10).hex()}"


class Live:
    """An open engine whose workspaces can be mounted below ``directory``.

    ``inline``: settle in this process, which starts faster than a child.
    """

    def __init__(self, directory: Path, geometry: Geometry | None = None, *, inline: bool = False) -> None:
        self.directory = directory
        self.store = directory / "store"
        Engine.create_store(self.store, time.time_ns, os.urandom(16), geometry)
        self.engine = Engine.open(self.store, time.time_ns, random_id)
        if inline:
            self.engine.settler.close()
            self.engine.settler = InlineSettler(self.engine)
        self._server = Server()
        self._mounted: dict[str, Transport] = {}

    def workspace(self, name: str) -> Workspace:
        """The open workspace."""
        return self.engine.host.workspace(self.engine.open_workspace(name))

    def mount(self, name: str) -> Path:
        """Mount a workspace; its path."""
        workspace = self.workspace(name)
        path = self.directory / "mounts" / name
        mounts.prepare_mountpoint(str(path))
        connection = mounts.mount(str(path), connection_id=next(_connections))
        transport = Transport(self._server, connection, workspace)
        self._mounted[name] = transport
        transport.start()
        workspace.transport = transport
        return path

    def unmount(self, name: str, *, force: bool = False) -> None:
        """Unmount a workspace."""
        workspace = self.workspace(name)
        self._mounted[name].unmount(force=force)
        del self._mounted[name]
        workspace.transport = None

    def close(self) -> None:
        """Unmount everything, check the store and close it."""
        for name in list(self._mounted):
            self.unmount(name, force=True)
        self._server.close()
        try:
            self.engine.settle()
            problems = self.engine.fsck(deep=True)
        finally:
            self.engine.close()
        assert list(problems) == []


@contextmanager
def live_store(directory: Path, geometry: Geometry | None = None) -> Iterator[Live]:
    """A :class:`Live` store that is taken away again."""
    live = Live(directory, geometry)
    try:
        yield live
    finally:
        live.close()
