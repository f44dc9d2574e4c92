"""Real kernel mounts for tests: fixtures that leave nothing behind, whatever a test does."""

from __future__ import annotations

import contextlib
import functools
import itertools
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.geometry import ROOT_INO, Geometry
from cowfs.layers.journal import Position
from cowfs.layers.layer import Layer
from cowfs.view.inode import Caller, SetAttr
from cowfs.view.state import State, new_inode
from cowfs.workspace import Branch, CheckpointOrder, Env, Outcome, RestoreOrder, Workspace
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse import session
from cowfs_daemon.fuse.dispatch import HANDLERS, Reply
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport
from tests.support.mounting import OBSTACLE
from tests.support.roomy import TestDisk

HANG_S = 60.0

_connections = itertools.count(1)


@dataclass
class Mounted:
    """A mounted workspace with the verbs that the engine would give it. ``gone``: the test has unmounted it."""

    path: Path
    workspace: Workspace
    transport: Transport
    gone: bool = False
    snapshots: dict[str, Layer] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def checkpoint(self) -> str:
        """Make a snapshot; its id."""
        number = next(self._ids)
        order = CheckpointOrder(f"snap-{number}", f"live-{number}", "", allow_empty=True)
        outcome = self.workspace.checkpoint(order)
        self._learn(outcome)
        return order.snapshot

    def restore(self, snapshot: str, *, force: bool = False) -> Outcome:
        """Go back to a snapshot, without keeping the state before."""
        order = RestoreOrder(snapshot, self.snapshots[snapshot], f"live-{next(self._ids)}", None, force)
        return self.workspace.restore(order)

    def _learn(self, outcome: Outcome) -> None:
        if outcome.snapshot is not None:
            self.snapshots[outcome.snapshot] = outcome.layers[-1]


def new_workspace(directory: Path) -> Workspace:
    """An empty workspace over an in-memory block store, journaling below ``directory``."""
    blocks, geometry = MemoryBlocks(), Geometry()
    state = State(blocks, geometry, None)
    root = new_inode(state, ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 0, time.time_ns())
    base = Layer("layer-0", "ws", None, {ROOT_INO: root}, (), 2, 1, root.blocks)
    journals = directory / "journals"
    journals.mkdir()
    env = Env(blocks, geometry, journals, time.time_ns, TestDisk())
    return Workspace(env, Branch("ws", "live-0", base, None, 2, Position(0, 0, 0)))


@pytest.fixture(scope="session")
def fuse() -> None:
    """Skips where FUSE cannot work at all."""
    if OBSTACLE:
        pytest.skip(OBSTACLE)


@pytest.fixture
def server(fuse: None) -> Iterator[Server]:
    """A server with quick idling; all its threads end with the test."""
    made = Server(idle_s=0.1)
    yield made
    made.close()
    assert made.statistics().readers == 0


@pytest.fixture
def mount_workspace(server: Server, tmp_path: Path) -> Iterator[Callable[[], Mounted]]:
    """Mounts new empty workspaces; takes every mount away again, aborting the connection if it hangs."""
    made: list[Mounted] = []

    def mount() -> Mounted:
        directory = tmp_path / f"mounted-{len(made)}"
        directory.mkdir()
        path = directory / "mnt"
        workspace = new_workspace(directory)
        mounts.prepare_mountpoint(str(path))
        connection = mounts.mount(str(path), connection_id=next(_connections))
        transport = Transport(server, connection, workspace)
        mounted = Mounted(path, workspace, transport)
        made.append(mounted)
        transport.start()
        workspace.transport = transport
        return mounted

    yield mount
    for mounted in made:
        _take_away(mounted)
    left = [line.path for line in mounts.mount_table() if line.path.startswith(str(tmp_path))]
    assert not left, f"mounts left behind: {left}"


def _take_away(mounted: Mounted) -> None:
    if mounted.gone:
        return
    if mounted.transport.session.ended.is_set():
        mounts.unmount(str(mounted.path), force=True)
        mounted.transport.session.stop()
        return
    try:
        mounted.transport.unmount()
    except BaseException:
        mounted.transport.unmount(force=True)
        raise


@pytest.fixture
def mounted(mount_workspace: Callable[[], Mounted]) -> Mounted:
    """One empty mounted workspace."""
    return mount_workspace()


@pytest.fixture
def mnt(mounted: Mounted) -> Path:
    """The path of :func:`mounted`."""
    return mounted.path


def unknown_file(mounted: Mounted, first: int, then: int) -> str:
    """Make a file ``f`` behind the kernel's back: of ``first`` bytes in the snapshot returned, now of ``then``."""
    view = mounted.workspace.view
    with mounted.workspace.lock:
        ino = view.mknod(ROOT_INO, b"f", stat.S_IFREG | 0o644, 0, Caller()).ino
        view.write(ino, 0, b"x" * first, Caller())
    snapshot = mounted.checkpoint()
    with mounted.workspace.lock:
        view.setattr(ino, SetAttr(size=0), Caller())
        view.write(ino, 0, b"x" * then, Caller())
    return snapshot


def client(code: str, *arguments: object, timeout_s: float = HANG_S) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own: what hangs there does not hang the tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll a condition that another thread or process makes true."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("the condition did not come true")
        with contextlib.suppress(InterruptedError):
            threading.Event().wait(0.002)


def wrap_handler(monkeypatch: pytest.MonkeyPatch, opcode: int, wrapper: Callable[..., Reply]) -> None:
    """Have requests of one kind answered by ``wrapper(handler, *arguments of the handler)``."""
    handlers = list(HANDLERS)
    handlers[opcode] = functools.partial(wrapper, HANDLERS[opcode])
    monkeypatch.setattr(session, "HANDLERS", handlers)
