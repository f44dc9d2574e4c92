"""The data plane process: ``python -m cowfs_daemon.worker --store S --socket FD``.

It holds a Host and the FUSE mounts of its workspaces, and does what its owner says over a socket pair. When the
owner goes away, it makes everything durable, unmounts and ends.

Threads: the main thread reads requests; each runs in a pool thread (a checkpoint may wait for the kernel while
others go on); FUSE readers are ``cowfs_daemon.fuse``'s own. Mounts change under ``_mounting``.
"""

import argparse
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.errors import Conflict, CowfsError, NotFound
from cowfs.formats.inode import Content
from cowfs.host import Chain, Host
from cowfs.store import StoreDirectory
from cowfs.workspace import CheckpointOrder, Env
from cowfs_daemon.channel import Channel, pack_error
from cowfs_daemon.frozen import FrozenWorkspace
from cowfs_daemon.fuse.mount import mount
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport

log = logging.getLogger("cowfs.worker")
THREADS = 8


class Worker:
    """What the owner may ask for; every public method is a call."""

    def __init__(self, store: Path) -> None:
        directory = StoreDirectory.open(store)
        geometry = directory.superblock.geometry
        self._index = BlockIndex(directory.index, writable=False)
        self._blocks = BlockReader(self._index, directory.segments)
        self.host = Host(Env(self._blocks, geometry, directory.journals, time.time_ns, directory.space))
        self._server = Server()
        self._transports: dict[str, Transport] = {}
        self._mounting = threading.Lock()
        self._contents: dict[str, list[tuple[int, Content]]] = {}

    def calls(self) -> dict[str, Callable[..., Any]]:
        """Every call by name."""
        host = self.host
        plain = (
            host.open,
            host.close,
            host.freeze,
            host.wants_freeze,
            host.diff,
            host.read,
            host.statistics,
            host.serving,
        )
        own = (self.checkpoint, self.restore, self.contents, self.settled, self.mount, self.mount_frozen, self.unmount)
        return {call.__name__: call for call in (*plain, *own)}

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Any:
        """See Host.checkpoint."""
        return self.host.checkpoint(workspace, order)

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool
    ) -> Any:
        """See Host.restore; while it runs, the kernel is told to cache no names."""
        transport = self._transports.get(workspace)
        if transport is None:
            return self.host.restore(workspace, snapshot, chain, live, undo, force)
        with transport.restoring():
            return self.host.restore(workspace, snapshot, chain, live, undo, force)

    def contents(self, layer: str, pairs: tuple[tuple[int, Content], ...]) -> None:
        """Some of what ``settled`` is about; in pieces, since decoding a large message would stop every reader."""
        self._contents.setdefault(layer, []).extend(pairs)

    def settled(self, layer: str, root: bytes) -> None:
        """See Host.settled, with the contents sent before."""
        self.host.settled(layer, root, self._contents.pop(layer, ()))

    def mount(self, workspace: str, path: str, connection_id: int) -> None:
        """Mount an open workspace at the directory ``path`` and serve it. Raises Conflict when it is mounted."""
        with self._mounting:
            if workspace in self._transports:
                raise Conflict(f"workspace {workspace} is mounted already")
            served = self.host.workspace(workspace)
            transport = Transport(self._server, mount(path, connection_id=connection_id), served)
            transport.start()
            served.transport = transport
            self._transports[workspace] = transport

    def mount_frozen(self, snapshot: str, chain: Chain, path: str, connection_id: int) -> None:
        """Mount a snapshot read-only."""
        with self._mounting:
            if snapshot in self._transports:
                raise Conflict(f"snapshot {snapshot} is mounted already")
            served = FrozenWorkspace(self.host.env, self.host.state(chain))
            connection = mount(path, connection_id=connection_id, read_only=True)
            transport = Transport(self._server, connection, served)
            transport.start()
            self._transports[snapshot] = transport

    def unmount(self, served: str, force: bool) -> None:
        """Unmount a workspace or snapshot by id. Raises NotFound, Busy."""
        with self._mounting:
            transport = self._transports.get(served)
            if transport is None:
                raise NotFound(f"{served} is not mounted here")
            transport.unmount(force=force)
            del self._transports[served]
            workspace = self.host.workspaces.get(served)
            if workspace is not None:
                workspace.transport = None

    def end(self) -> None:
        """Make everything durable, then let go of it; programs that still use a mount get errors from here on."""
        for workspace in list(self.host.workspaces):
            try:
                self.host.workspaces[workspace].sync()
            except OSError as error:
                log.error("%s: %s", workspace, error)
        for served in list(self._transports):
            try:
                self.unmount(served, True)
            except (OSError, CowfsError) as error:
                log.error("%s: %s", served, error)
        for workspace in list(self.host.workspaces):
            self.host.close(workspace)
        self._server.close()
        self._blocks.close()
        self._index.close()


def serve(channel: Channel, calls: dict[str, Callable[..., Any]]) -> None:
    """Answer requests until the other end is gone and all answers are given."""

    def answer(number: int, name: str, arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = calls[name](*arguments)
        except (CowfsError, OSError) as error:
            failure = pack_error(error)
        except Exception as error:
            log.exception("%s failed", name)
            failure = pack_error(error)
        try:
            channel.send((number, result, failure))
        except OSError:
            log.info("nobody waits for the answer to %s", name)

    with ThreadPoolExecutor(THREADS, "cowfs-call") as pool:
        while (request := channel.receive()) is not None:
            pool.submit(answer, *request)


def main() -> int:
    """Serve until the owner goes away."""
    parser = argparse.ArgumentParser(prog="cowfs_daemon.worker", description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    options = parser.parse_args()
    # The owner decides when to end: a Ctrl-C in its terminal reaches this process, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    channel = Channel(socket.socket(fileno=options.socket))
    try:
        worker = Worker(options.store)
    except (CowfsError, OSError) as error:
        channel.send((0, None, pack_error(error)))
        return 1
    channel.send((0, None, None))
    serve(channel, worker.calls())
    worker.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
