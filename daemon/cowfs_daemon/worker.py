"""The data plane process: ``python -m cowfs_daemon.worker --store S --socket FD``.

It holds a Host and the FUSE mounts of its workspaces, and does what its owner says over a socket pair. When the
owner goes away, it makes everything durable and ends; the keeper, if there is one, holds the mounts for the next.

Threads: the main thread reads requests; each runs in a pool thread (a checkpoint may wait for the kernel while
others go on); FUSE readers are ``cowfs_daemon.fuse``'s own. Mounts change under ``_mounting``.
"""

import argparse
import contextlib
import gc
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import cowfs
from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import CACHE_BYTES, BlockReader
from cowfs.errors import Busy, Conflict, CowfsError, NotFound
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Chain, Done, Host, LayerSpec
from cowfs.remembered import Request
from cowfs.reserve import Reserve
from cowfs.store import StoreDirectory
from cowfs.subtrees import Part
from cowfs.view.view import View
from cowfs.workspace import CheckpointOrder, Env, Workspace
from cowfs_daemon import logs, orphans
from cowfs_daemon.channel import PROTOCOL, PULSE, Channel, pack_error
from cowfs_daemon.frozen import FrozenWorkspace
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.mount import Connection, abort, mount, unless_gone, unmount
from cowfs_daemon.fuse.negotiate import HAS_RESEND
from cowfs_daemon.fuse.served import Handed
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.session import ServedWorkspace
from cowfs_daemon.fuse.transport import Transport
from cowfs_daemon.fuse.written_out import WrittenOut
from cowfs_daemon.gauges import Tally
from cowfs_daemon.kept import Kept
from cowfs_daemon.mounts import clear_place
from cowfs_daemon.ports import WorkerGone
from cowfs_daemon.pulse import Pulse, Pulses
from cowfs_daemon.surroundings import WORKER_OOM, set_oom_score

log = logging.getLogger("cowfs.worker")
THREADS = 8
CACHE_VARIABLE: Final = "COWFS_CACHE_BYTES"


def cache_bytes() -> int:
    """The bound of a worker's cache of blocks, and of that of tree nodes."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    return int(chosen) if chosen.isdecimal() else CACHE_BYTES


class Worker:
    """What the owner may ask for; every public method is a call."""

    def __init__(self, store: Path, keeper: int | None) -> None:
        self._kept = Kept(keeper)  # shared by all workers of the store
        directory = StoreDirectory.open(store)
        geometry = directory.superblock.geometry
        self._index = BlockIndex(directory.index, writable=False)
        cache = cache_bytes()
        self._blocks = BlockReader(self._index, directory.segments, raw_cache_bytes=cache, node_cache_bytes=cache)
        self.host = Host(Env(self._blocks, geometry, directory.journals, time.time_ns, Reserve(directory.path)))
        self._server = Server()
        self._written = WrittenOut(directory.shown)
        self._transports: dict[str, Transport] = {}
        self._frozen: dict[str, FrozenWorkspace] = {}
        self._mounting = threading.Lock()
        self._tally = Tally()
        self._contents: dict[str, list[tuple[int, Content]]] = {}
        self._awaited: set[str] = set()  # open workspaces whose mounts are to be taken over
        self._pulses = Pulses()

    def pulse(self) -> Pulse:
        """How the mounts get on. Answered by the main thread, at once, so that no lock of a workspace is waited for."""
        return self._pulses.take((key, transport.session) for key, transport in list(self._transports.items()))

    def calls(self) -> dict[str, Callable[..., Any]]:
        """Every call by name."""
        host = self.host
        plain = (
            host.freeze,
            host.wants_freeze,
            host.stall,
            host.forget,
            host.forget_segments,
            host.unnamed,
            host.diff,
            host.read,
            host.statistics,
            host.serving,
            host.limit,
            host.usage,
        )
        data = (
            self.open, self.close, self.checkpoint, self.restore, self.remove_path, self.clone_path,
            self.contents, self.settled, self.figures, self.shown,
        )  # fmt: skip
        mounts = (self.mount, self.mount_frozen, self.unmount, self.release, self.kept, self.abandon)
        return {call.__name__: call for call in (*plain, *data, *mounts)}

    def figures(self) -> dict[str, Any]:
        """What this process counts, for ``cowfs_daemon.gauges``."""
        sessions = [transport.session for transport in list(self._transports.values())]
        return self._tally.told(sessions, self.host, self._blocks.statistics(), self._written.statistics())

    def open(self, spec: BranchSpec, known: dict[str, LayerSpec]) -> Done:
        """See Host.open. Until a mount of before is taken over, files may be open of which a predecessor alone knew."""
        done = self.host.open(spec, known)
        workspace = self.host.workspace(spec.id)
        if workspace.transport is None:
            if self._kept.has(spec.id):
                self._awaited.add(spec.id)
                with workspace.lock:
                    workspace.view.taken_over()
                workspace.outlived()
            else:
                with workspace.lock:
                    workspace.view.unopened()
                workspace.told()
        return done

    def close(self, workspace: str) -> None:
        """See Host.close."""
        self._awaited.discard(workspace)
        self.host.close(workspace)

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Any:
        """See Host.checkpoint."""
        self._refuse_awaited(workspace)
        return self.host.checkpoint(workspace, order)

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool,
        request: Request | None = None, closed: bytes = b"",
    ) -> Any:  # fmt: skip
        """See Host.restore."""
        self._refuse_awaited(workspace)
        return self.host.restore(workspace, snapshot, chain, live, undo, force, request, closed)

    def remove_path(self, workspace: str, token: str, path: bytes | None) -> Part:
        """See Host.remove_path."""
        self._refuse_awaited(workspace)
        return self.host.remove_path(workspace, token, path)

    def clone_path(self, workspace: str, token: str, paths: tuple[bytes, bytes] | None) -> Part:
        """See Host.clone_path."""
        self._refuse_awaited(workspace)
        return self.host.clone_path(workspace, token, paths)

    def _refuse_awaited(self, workspace: str) -> None:
        """A mount that outlived its worker must be taken over first: until then its mappings cannot be flushed, and
        the kernel cannot be told what a restore has changed."""
        if workspace in self._awaited:
            if self._kept.has(workspace):
                raise WorkerGone("programs still wait for the worker that is to serve the workspace", hint="try again")
            self._awaited.discard(workspace)

    def contents(self, layer: str, pairs: tuple[tuple[int, Content], ...]) -> None:
        """Some of what ``settled`` is about; in pieces, since decoding a large message would stop every reader."""
        self._contents.setdefault(layer, []).extend(pairs)

    def settled(self, layer: str, root: bytes) -> None:
        """See Host.settled, with the contents sent before."""
        self.host.settled(layer, root, self._contents.pop(layer, ()))

    def mount(self, workspace: str, path: str, connection_id: int, handed: Handed | None = None) -> None:
        """Mount an open workspace at ``path`` and serve it, or go on where another worker stopped.

        ``handed``: what that worker said when it let go. Nothing happens when it is mounted there already; raises
        Conflict when it is mounted elsewhere.
        """
        with self._mounting:
            if self._is_mounted(workspace, path):
                return
            served = self.host.workspace(workspace)
            taken = self._take(workspace, path, clean=handed is not None)
            attached = self._attached(workspace, served, taken, path, connection_id, read_only=False)
            with unless_gone(), attached as transport:
                if handed is not None and taken is not None:
                    transport.session.served.hand_over(handed)
                    served.view.reopened(handed.opens, handed.writers, handed.unsure)
                elif taken is not None:
                    mine = transport.session.served
                    mine.opens, mine.writers = served.view.taken_over()
                    mine.listings = None
                    writers = len(mine.writers)
                    log.info(
                        "took over %s, %d inodes open for writing",
                        path,
                        writers,
                        extra={"workspace": os.path.basename(path)},
                    )
                else:
                    served.view.unopened()
                    served.told()
                with served.lock:
                    untold = served.untold.changes(served.view.state) if served.untold else None
                transport.start(untold)
                served.told()
                served.transport = transport  # only now: before, there is nothing that a flush could open files with
            self._awaited.discard(workspace)
            self._server.lister.ready()  # its start takes as long as hundreds of lookups

    def mount_frozen(self, snapshot: str, chain: Chain, path: str, connection_id: int) -> None:
        """Mount a snapshot read-only at ``path``, or go on where a predecessor stopped. As :meth:`mount` otherwise."""
        with self._mounting:
            if self._is_mounted(snapshot, path):
                return
            served = self._frozen[snapshot] = FrozenWorkspace(self.host.env, self.host.state(chain))
            taken = self._take(snapshot, path)
            attached = self._attached(snapshot, served, taken, path, connection_id, read_only=True)
            with unless_gone(), attached as transport:
                transport.start()
                self._server.lister.ready()

    def shown(self) -> dict[str, bytes]:
        """See Host.shown."""
        return {snapshot: frozen.root() for snapshot, frozen in list(self._frozen.items())}

    def _is_mounted(self, key: str, path: str) -> bool:
        """Whether it is at ``path``. Raises Conflict when it is elsewhere."""
        transport = self._transports.get(key)
        if transport is None:
            return False
        if not transport.session.ended.is_set():
            if transport.session.connection.mountpoint != path:
                raise Conflict(f"{key} is mounted already")
            return True
        # Somebody has unmounted it behind our back.
        self._let_go(key, transport, force=True)
        return False

    @contextlib.contextmanager
    def _attached(
        self,
        key: str,
        served: ServedWorkspace,
        taken: Connection | None,
        path: str,
        connection_id: int,
        read_only: bool,
    ) -> Iterator[Transport]:
        """Around the start of a transport. When that fails, a new mount goes again; one that was taken over stays with
        the keeper, and programs wait in it for whoever tries next."""
        if taken is None:
            clear_place(path)
            connection = mount(path, connection_id=connection_id, read_only=read_only)
        else:
            connection = taken
        transport = None
        try:
            if taken is None:
                self._kept.keep(key, connection)
            elif connection.init.has(HAS_RESEND):
                # What the predecessor had read and not answered comes again.
                os.write(connection.fd, protocol.resend())
            written = self._written if read_only else None
            transport = Transport(self._server, connection, served, complete=taken is None, written=written)
            self._transports[key] = transport
            yield transport
        except BaseException:
            if transport is None:
                os.close(connection.fd)
            else:
                self._leave(key, transport, gone=taken is None)
            self._frozen.pop(key, None)
            if taken is None:
                self._kept.drop(key)
                unmount(path, force=True)
            raise

    def _leave(self, key: str, transport: Transport, *, gone: bool = False) -> None:
        """Serve it no more, and let go of the mount, which stays for another to serve it, or is ``gone`` soon."""
        transport.detach()
        self._forget(key, gone=gone)
        transport.close(gone=gone)
        if not gone and self.host.is_open(key):
            self._awaited.add(key)

    def _forget(self, key: str, *, gone: bool) -> None:
        """It is not served here any more; ``gone``: and no kernel has it mounted."""
        self._tally.ended(self._transports.pop(key).session)
        self._frozen.pop(key, None)
        workspace = self.host.workspaces.get(key)
        if workspace is not None:
            workspace.transport = None
            if gone:
                with workspace.lock:
                    workspace.view.unopened()

    def _take(self, key: str, path: str, *, clean: bool = False) -> Connection | None:
        """What another worker had mounted at ``path`` and serves no more; mounted elsewhere, it goes.

        ``clean``: it has answered all that it read. Else, where the kernel cannot be asked to send requests again, a
        program may wait for an answer that nobody knows to be owed (the kernel's count of what waits tells no lost
        one from one that was not read yet): all get an error instead.
        """
        taken = self._kept.take(key)
        if taken is None:
            return None
        lost = not clean and not taken.init.has(HAS_RESEND)
        if lost:
            log.error("%s: this kernel sends no request again: programs that use it get errors", taken.mountpoint)
            abort(taken.number)
        if lost or taken.mountpoint != path:
            self._abandon(key, taken)
            return None
        return taken

    def release(self, workspace: str) -> Handed | None:
        """Stop serving a workspace between two requests, and close it, for another worker to go on; what that needs.

        None: it is not mounted. Raises Busy when files without a name are open in it, or its journal cannot be synced:
        then it stays. Whatever is raised, it is still open here.
        """
        with self._mounting:
            transport = self._transports.get(workspace)
            served = self.host.workspace(workspace)
            handed = None
            if transport is not None and not self._kept.keeping:
                raise Conflict("without a keeper, what is mounted stays in its worker")
            _sync(served)  # while programs are still served: there is hardly anything left to do when they wait
            if transport is not None:
                transport.detach()
                try:
                    _refuse_unnamed(served.view)
                    _sync(served)
                    handed = transport.session.served.handed()._replace(unsure=served.view.unsure)
                except BaseException:
                    self._resume(workspace, transport)
                    raise
                self._leave(workspace, transport)
            with contextlib.suppress(OSError):  # all that was answered is durable
                self.close(workspace)
            return handed

    def _resume(self, workspace: str, transport: Transport) -> None:
        """Go on serving; where that fails, the mount stays with the keeper, for who mounts it again."""
        try:
            transport.start()
        except BaseException:
            self._leave(workspace, transport)
            raise

    def kept(self) -> list[str]:
        """The ids of everything whose mount the keeper holds."""
        return self._kept.keys()

    def abandon(self, keys: tuple[str, ...]) -> None:
        """Unmount what a predecessor had mounted and nobody wants."""
        for key in keys:
            connection = self._kept.take(key)
            if connection is not None:
                self._abandon(key, connection)

    def _abandon(self, key: str, connection: Connection) -> None:
        log.info("letting go of %s", connection.mountpoint)
        unmount(connection.mountpoint, force=True)
        os.close(connection.fd)
        self._kept.drop(key)

    def unmount(self, served: str, force: bool) -> None:
        """Unmount a workspace or snapshot by id. Raises NotFound, Busy."""
        with self._mounting:
            transport = self._transports.get(served)
            if transport is None:
                raise NotFound(f"{served} is not mounted here")
            self._let_go(served, transport, force)

    def _let_go(self, served: str, transport: Transport, force: bool) -> None:
        transport.unmount(force=force)
        self._forget(served, gone=True)
        self._kept.drop(served)

    def end(self) -> None:
        """Make everything durable, then let go of it.

        With a keeper, mounts stay and programs wait for the next worker; without, they get errors from here on.
        """
        for served, transport in list(self._transports.items()):
            try:
                if self._kept.keeping:
                    transport.detach()
                else:
                    self.unmount(served, True)
            except (OSError, CowfsError) as error:
                log.error("%s: %s", served, error)
        for workspace in list(self.host.workspaces):
            self.host.close(workspace)
        self._server.close()
        self._blocks.close()
        self._index.close()


def _sync(workspace: Workspace) -> None:
    try:
        workspace.sync()
    except OSError as error:
        raise Busy(f"its journal cannot be made durable: {error.strerror}", hint="see the log of the daemon") from error


def _refuse_unnamed(view: View) -> None:
    if any(stat.S_ISREG(orphan.mode) and view.is_open(ino) for ino, orphan in view.state.orphans.items()):
        raise Busy("files without a name are open", hint="try again when they are closed")


def serve(channel: Channel, calls: dict[str, Callable[..., Any]], pulse: Callable[[], Pulse]) -> None:
    """Answer requests until the other end is gone and all answers are given. ``pulse`` answers the call of that name,
    between two requests, since all threads may be at work."""

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
            if request[1] == PULSE:
                with contextlib.suppress(OSError):  # the next line finds out that the owner is gone
                    channel.send((request[0], tuple(pulse()), None))
            else:
                pool.submit(answer, *request)


def main() -> int:
    """Serve until the owner goes away."""
    parser = argparse.ArgumentParser(prog="cowfs_daemon.worker", description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--keeper", type=int)
    options = parser.parse_args()
    # Inodes are many, live long and form no cycles. With the usual thresholds, looking through all of them again and
    # again was 18 % of making files, and stopped every reader for 0.1 s at 150,000 inodes.
    gc.set_threshold(20_000, 50, 1_000)
    # The owner decides when to end: a Ctrl-C in its terminal reaches this process, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up("worker", os.fspath(options.store))
    channel = Channel(socket.socket(fileno=options.socket))
    set_oom_score(WORKER_OOM)
    alive = orphans.hold(os.fspath(options.store))
    try:
        worker = Worker(options.store, options.keeper)
    except (CowfsError, OSError) as error:
        with contextlib.suppress(OSError):
            channel.send((0, None, pack_error(error)))
        return 1
    with contextlib.suppress(OSError):  # an owner that is gone already is found out by the next line
        channel.send((0, (PROTOCOL, cowfs.__version__), None))
    serve(channel, worker.calls(), worker.pulse)
    worker.end()
    os.close(alive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
