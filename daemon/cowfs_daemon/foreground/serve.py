"""Own a store, mount one workspace, and serve both it and the API in one trio loop, until told to end."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from cowfs.engine import Engine
from cowfs.errors import Busy, Conflict, Invalid, NotFound
from cowfs.remembered import Request
from cowfs.results import Scrubbed
from cowfs.workspace import Workspace
from cowfs_daemon import identity
from cowfs_daemon.foreground.operations import Operations
from cowfs_daemon.foreground.transport import Transport
from cowfs_daemon.fuse import fusermount, mount
from cowfs_daemon.fuse.negotiate import Negotiated
from cowfs_daemon.fuse.served import Served
from cowfs_daemon.metrics import Sample
from cowfs_daemon.mounts import clear_place
from cowfs_daemon.offline import new_id
from cowfs_daemon.ports import Mounted, Parts, Progress
from cowfs_daemon.settling import Settling
from cowfs_daemon.start import listen, unlisten
from cowfs_daemon.supervised import Supervised
from cowfs_daemon.supervisor import supervise
from cowfs_daemon.users import mounted_at

OPTIONS = frozenset({"default_permissions", "nosuid", "nodev", "noatime", "fsname=cowfs", "subtype=cowfs"})


class OneMount:
    """The mounts of this store: one, which is there as long as this process."""

    def __init__(self, ref: str, path: str) -> None:
        self._mounted = Mounted(ref, path, read_only=False)

    def mount(self, ref: str) -> Mounted:
        """See MountsLike."""
        if ref != self._mounted.ref:
            raise Conflict(
                f"this process serves {self._mounted.ref} alone, in the foreground",
                hint="End it, then let the daemon serve the store.",
            )
        return self._mounted

    def was_unmounted(self, request: Request | None) -> bool:
        """See MountsLike."""
        return False

    def umount(self, ref: str, force: bool = False, request: Request | None = None) -> None:
        """See MountsLike."""
        if ref != self._mounted.ref:
            raise NotFound(f"{ref} is not mounted", hint="`cowfs mount` lists what is")
        raise Conflict(f"{ref} is served in the foreground", hint="End the `cowfs mount` that serves it.")

    def umount_all(self, refs: Iterable[str], force: bool = False) -> None:
        """See MountsLike."""
        for ref in refs:
            with suppress(NotFound):
                self.umount(ref, force)

    def mounted(self) -> list[Mounted]:
        """See MountsLike."""
        return [self._mounted]

    def wanted(self) -> set[str]:
        """See MountsLike."""
        return {self._mounted.ref}

    @contextmanager
    def unmounted(self, name: str) -> Iterator[None]:
        """See MountsLike."""
        if name == self._mounted.ref:
            raise Busy(f"{name} is served in the foreground", hint="End the `cowfs mount` that serves it.")
        yield

    def path_of(self, name: str) -> str | None:
        """See MountsLike."""
        return self._mounted.path if name == self._mounted.ref else None


class Foreground:
    """A store with one workspace served at ``path``."""

    def __init__(self, store: str, workspace: str, path: str) -> None:
        """Raises NotFound, Busy (the store has an owner), Conflict, Invalid."""
        self._store, self._path = store, os.path.abspath(path)
        self._undo = ExitStack()
        with ExitStack() as undo:
            self.engine = Engine.open(Path(store), time.time_ns, new_id)
            self.engine.images.owners = identity.owners()
            undo.callback(self.engine.close)
            self.engine.reserve.refill()
            self._name = workspace
            self._workspace: Workspace = self.engine.host.workspace(self.engine.open_workspace(workspace))
            _prepare(self._path)
            self._settling = Settling(self.engine)
            self._undo = undo.pop_all()

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until a signal, an unmount or `cowfs daemon stop` ends it; then everything is durable."""
        with self._undo:
            try:
                trio.run(self._serve, ready)
            finally:
                unlisten(self._store)

    async def _serve(self, ready: Callable[[], None]) -> None:
        negotiated = Negotiated(0, 0, 0)
        served = Served(
            secrets.randbits(63), negotiated, complete=True, sync_later=_never, refresh=_never, owners=identity.owners()
        )
        operations = Operations(self._workspace, served)
        with self._workspace.lock:
            self._workspace.view.unopened()
            self._workspace.view.state.pinned = served.lookups
        self._workspace.told()
        shared = os.geteuid() == 0 or fusermount.others_allowed()
        options = set(OPTIONS) | ({"allow_other"} if shared else set())
        try:
            pyfuse3.init(operations, self._path, options)
        except RuntimeError as error:
            raise Invalid(f"{self._path}: cannot mount: {error}", hint="see `cowfs doctor`") from error
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._main, nursery.cancel_scope)
                number = os.minor(await trio.to_thread.run_sync(lambda: os.stat(self._path).st_dev))
                transport = await trio.to_thread.run_sync(
                    Transport, self._workspace, served, self._path, number, trio.lowlevel.current_trio_token()
                )
                self._workspace.transport = operations.transport = transport
                self._settling.start()
                nursery.start_soon(self._signals, nursery.cancel_scope)
                with listen(self._store) as sock:
                    nursery.start_soon(self._api, sock, ready, nursery.cancel_scope)
                    await trio.sleep_forever()
        finally:
            if isinstance(operations.transport, Transport):
                operations.transport.close()
            self._workspace.transport = operations.transport = None
            self._settling.stop()
            pyfuse3.close(unmount=True)
            served.end()

    async def _main(self, everything: trio.CancelScope) -> None:
        await pyfuse3.main()
        everything.cancel()

    async def _signals(self, everything: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                everything.cancel()

    async def _api(self, sock: Any, ready: Callable[[], None], everything: trio.CancelScope) -> None:
        await supervise(sock, self._parts(), ready, False)
        everything.cancel()

    def _parts(self) -> Parts:
        def scrub(rate: int, progress: Progress) -> Scrubbed:
            return self.engine.scrubber.scrub(rate, lambda _: True, progress)

        def details() -> dict[str, Any]:
            return {"keeper": None, "workers": [], "settlers": [], "queues": {"settle": len(self.engine.unsettled())}}

        def detach(force: bool) -> None:
            users = None if force else _users(self._path)
            if users:
                raise Busy(f"{self._name} is in use by {users}", hint="stop them, or --force to detach it")

        def samples() -> Iterable[Sample]:
            return ()

        return Parts(
            engine=self.engine,
            mounts=OneMount(self._name, self._path),
            details=details,
            detach_all=detach,
            unlisten=lambda: unlisten(self._store),
            changed=self._settling.nudge,
            supervised=Supervised(),
            outdated=lambda: False,
            scrub=scrub,
            samples=samples,
        )


def _prepare(path: str) -> None:
    """Make the mount point; what a killed process left mounted there goes. Raises Conflict when it is in use."""
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise Invalid(f"{path}: {error.strerror}") from error
        clear_place(path)
    mount.prepare_mountpoint(path)
    if os.listdir(path) or mounted_at(path) is not None:
        raise Conflict(f"{path} is not empty", hint="Choose a new or empty directory.")


def _users(path: str) -> str:
    from cowfs_daemon.users import users_of

    point = mounted_at(path)
    found = [] if point is None else users_of(point, but=frozenset((os.getpid(),)))
    return ", ".join(f"{user.pid} ({user.name})" for user in found[:8])


def _never(_: int) -> None:
    """The operations answer fsync, and have the kernel ask for sizes, themselves."""


def serve(store: str, workspace: str, path: str, ready: Callable[[], None]) -> int:
    """Serve a workspace of a store at ``path``; the exit code. ``ready`` is called when both the mount and the API
    answer. Raises what :class:`Foreground` does."""
    Foreground(store, workspace, path).run(ready)
    return 0
