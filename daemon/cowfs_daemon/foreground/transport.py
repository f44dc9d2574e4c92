"""What checkpoint and restore ask of a mount that pyfuse3 serves.

pyfuse3 says of a WRITE neither whether it comes from a mapping nor whether the descriptor appends, and can make the
kernel drop a name only together with what is mounted below it. So a restore is refused where something is mounted
inside, or a file stays open for writing; an opening for writing that comes meanwhile waits for the swap.

Concurrency: called by threads of the API. The trio loop answers requests meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import pyfuse3
import trio

from cowfs.errors import Busy
from cowfs.geometry import ROOT_INO
from cowfs.results import Handle
from cowfs.subtrees import Removed
from cowfs.workspace import Workspace
from cowfs_daemon.fuse import points, protocol
from cowfs_daemon.fuse.handles import Handles
from cowfs_daemon.fuse.served import Served
from cowfs_daemon.fuse.transport import Changes

CLOSE_SECONDS = 0.2
"""How long a restore waits for files to be closed; the kernel tells of a close when the program has gone on."""

_TRIES = 3
"""How often the kernel is told of an inode that it did not know: an answer may just be on its way."""


class Transport:
    """See cowfs.transport.Transport. ``number``: of the FUSE connection; ``token``: of the trio loop that serves it."""

    def __init__(
        self, workspace: Workspace, served: Served, mountpoint: str, number: int, token: trio.lowlevel.TrioToken
    ) -> None:
        self._workspace = workspace
        self._served = served
        self._number = number
        self._token = token
        self._handles = Handles(workspace, served.generations)
        self._handles.open_root(mountpoint)
        self._closed = threading.Condition(workspace.lock)
        self._swapped: trio.Event | None = None
        self._pending: list[int] = []

    def close(self) -> None:
        """Let go of the mount."""
        self._handles.close_root()

    def writers_wait(self) -> trio.Event | None:
        """What an opening for writing has to wait for; None: nothing."""
        return self._swapped

    def released(self) -> None:
        """A file that was open for writing is closed; under the workspace's lock."""
        self._closed.notify_all()

    def ask_size(self, ino: int) -> None:
        """Make the kernel ask for an inode's size."""
        self._handles.ask_size(ino)

    def flush_writable(self) -> None:
        """See cowfs.transport.Transport."""
        with self._workspace.lock:
            writers = list(self._served.writers)
        for ino in writers:
            try:
                self._handles.flush_inode(ino, self._served, lambda ino: _told(pyfuse3.invalidate_inode, ino))
            except OSError:
                with self._workspace.lock:
                    if ino in self._served.writers:
                        raise

    def mount_points(self) -> list[tuple[str, int]]:
        """See cowfs.transport.Transport."""
        return points.mount_points(self._workspace, self._number)

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """See cowfs.transport.Transport. Raises Busy where this transport cannot restore."""
        if inside := self.mount_points():
            raise Busy(
                f"restoring through pyfuse3 would detach what is mounted at {', '.join(path for path, _ in inside)}",
                hint="Unmount it first, or let the daemon serve the workspace.",
            )
        try:
            with self._closed:
                self._swapped = trio.Event()  # who opens for writing waits from here on
                if not self._closed.wait_for(lambda: not self._served.writers, CLOSE_SECONDS):
                    raise Busy(
                        f"{len(self._served.writers)} files are open for writing, which pyfuse3 cannot take back",
                        hint="Close them first, or let the daemon serve the workspace.",
                    )
                self._served.valid = 0
            yield
        finally:
            self._go_on()
            self._served.valid = protocol.FOREVER

    def _go_on(self) -> None:
        swapped, self._swapped = self._swapped, None
        if swapped is not None:
            with contextlib.suppress(trio.RunFinishedError):  # the mount has gone, nobody waits
                self._token.run_sync_soon(swapped.set)

    def begin_restore(self, changes: Changes) -> None:
        """See cowfs.transport.Transport."""
        served = self._served
        pending = {ino for ino in changes.inodes if ino in served.lookups}
        if ROOT_INO in changes.inodes:
            pending.add(ROOT_INO)
        served.stale.update(pending)
        for ino in changes.revived:
            if ino in served.dead:
                served.dead.discard(ino)
                served.generations[ino] = int.from_bytes(os.urandom(4), "little") >> 1 or 1
        self._pending = list(pending)
        self._go_on()

    def invalidate(self, changes: Changes) -> list[Handle]:
        """See cowfs.transport.Transport."""
        trio.from_thread.run_sync(_nothing, trio_token=self._token)  # answers from before the swap have been written
        served = self._served
        unheard = [ino for ino in self._pending if not _told(pyfuse3.invalidate_inode, ino)]
        names = [(parent, name) for parent, name in changes.names if parent in served.lookups]
        moved = [(parent, name) for ino, parent, name in changes.moved if ino in served.lookups]
        for parent, name in dict.fromkeys([*names, *moved]):
            _told(pyfuse3.invalidate_entry, parent, name, 0)
        for parent in dict.fromkeys(parent for parent, _ in names):
            _told(pyfuse3.invalidate_inode, parent)
        for _ in range(_TRIES):
            for ino in unheard:
                for parent, name in changes.places(ino):
                    _told(pyfuse3.invalidate_entry, parent, name, 0)
            unheard = [ino for ino in unheard if not _told(pyfuse3.invalidate_inode, ino)]
        with self._workspace.lock:
            opens = [ino for ino in self._pending if ino in served.opens]
        for ino in opens:
            self._handles.ask_size(ino)
        with self._workspace.lock:
            handles = [Handle(ino, ino in served.writers, ino in changes.gone) for ino in sorted(served.opens)]
        self._pending = []
        return [handle for handle in handles if handle.gone or handle.writable]

    def removed(self, gone: Sequence[Removed], directory: int) -> None:
        """See cowfs.transport.Transport."""
        for each in gone:
            if each.is_dir:
                with self._workspace.lock:
                    self._served.removed(each.ino)
            _told(pyfuse3.invalidate_entry, each.parent, each.name, each.ino)
            if each.left:
                _told(pyfuse3.invalidate_inode, each.ino)
        _told(pyfuse3.invalidate_inode, directory)

    def made(self, parent: int, name: bytes) -> None:
        """See cowfs.transport.Transport."""
        _told(pyfuse3.invalidate_entry, parent, name, 0)
        _told(pyfuse3.invalidate_inode, parent)


def _nothing() -> None:
    """Runs when every task before it has yielded."""


def _told(notify: Callable[..., None], *arguments: object) -> bool:
    """Notify the kernel; False when it does not know what it is about."""
    try:
        notify(*arguments)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
        return False
    return True
