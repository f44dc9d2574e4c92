"""What checkpoint and restore ask of a mount: flush what mappings dirtied, and take back what the kernel cached.

Concurrency: everything but :meth:`Transport.begin_restore` is called without any engine lock, by a thread
that is no reader: opening a file, a notification and fstat wait for requests to be answered meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from cowfs.errors import CowfsError, NotFound
from cowfs.geometry import ROOT_INO
from cowfs.results import Handle
from cowfs.subtrees import Removed
from cowfs_daemon import identity
from cowfs_daemon.fuse import mount, points, protocol
from cowfs_daemon.fuse.backing import Backing
from cowfs_daemon.fuse.handles import Handles, flushes_by_fsync
from cowfs_daemon.fuse.mount import Connection
from cowfs_daemon.fuse.negotiate import PASSTHROUGH
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.session import ServedWorkspace, Session, SessionStatistics
from cowfs_daemon.fuse.written_out import WrittenOut

log = logging.getLogger("cowfs.fuse")

_UNHEARD_TRIES, _UNHEARD_PAUSE_S = 20, 0.001


class Changes(Protocol):
    """What a restore changes: ``gone`` are the inodes that are not in the new view, a part of ``inodes``."""

    @property
    def inodes(self) -> Collection[int]:
        """Every inode whose content or attributes differ."""

    @property
    def names(self) -> Iterable[tuple[int, bytes]]:
        """(parent inode, name) of every directory entry that differs."""

    @property
    def gone(self) -> Collection[int]:
        """The inodes that do not exist any more."""

    @property
    def revived(self) -> Collection[int]:
        """Directories that were removed and are back."""

    @property
    def moved(self) -> Iterable[tuple[int, int, bytes]]:
        """(inode, new parent, new name) of directories that are elsewhere, those further up first."""

    def places(self, ino: int) -> Iterable[tuple[int, bytes]]:
        """(parent inode, name) of everything that named an inode before, or does so now."""


class Transport:
    """The mount of one workspace, served by ``server``. Serves from :meth:`start` on.

    ``written``: where files may be written out that the kernel then reads by itself; None: nowhere.
    """

    def __init__(
        self,
        server: Server,
        connection: Connection,
        workspace: ServedWorkspace,
        *,
        complete: bool = True,
        on_end: Callable[[], None] | None = None,
        written: WrittenOut | None = None,
    ) -> None:
        self.connection = connection
        self.session = Session(
            server, connection, workspace, refresh=self._refresh_later, list_ahead=self._list_ahead,
            complete=complete, on_end=on_end,
            # fsync would wait for the inode's lock, which the kernel holds while it asks for data and holes.
            flush=None if flushes_by_fsync() else self._flush_inode, owners=identity.owners(),
        )  # fmt: skip
        self._served = self.session.served
        if written is not None and connection.init.has(PASSTHROUGH):
            self._served.backing = Backing(connection.fd, written, str(connection.connection_id), complete=complete)
        self._server = server
        self._workspace = workspace
        self._handles = Handles(workspace, self._served.generations)
        self._pending: list[int] = []
        self._changes: Changes | None = None

    def start(self, untold: Changes | None = None) -> None:
        """Begin to serve, and keep a descriptor of the mount's root for flushing.

        ``untold``: what a kernel that goes on with this mount was not told of yet; it has been on return.
        """
        with self._workspace.lock:
            self._workspace.view.state.pinned = self._served.lookups
            if untold is not None:
                self.begin_restore(untold)
        self.session.start()
        self._open_root()
        if untold is not None:
            self.invalidate(untold)

    def _open_root(self) -> None:
        self._handles = Handles(self._workspace, self._served.generations)
        self._served.withheld.add(ROOT_INO)  # nobody lists the directory with this one
        try:
            self._handles.open_root(self.connection.mountpoint)
        finally:
            self._served.withheld.discard(ROOT_INO)

    def statistics(self) -> SessionStatistics:
        """Counts of this moment."""
        return self.session.statistics()

    def unmount(self, *, force: bool = False) -> None:
        """Unmount and end the session. Raises ``Busy`` when in use; with ``force`` it is detached, then aborted."""
        if not force:
            self.session.settle()  # A job that has a file open would make the mount busy.
        self._handles.close_root()
        with self._server.lister.forking:
            pass  # A child that has the root open, too, is another program now.
        self.session.ending = True
        if self._is_mounted():
            try:
                mount.unmount(self.connection.mountpoint, force=force)
            except BaseException:
                self.session.ending = False
                if not self.session.ended.is_set():
                    self._open_root()
                raise
        if force:
            with contextlib.suppress(OSError, NotFound):  # Gone already when nobody used it.
                mount.abort(self.connection.number)
        self.session.stop()
        self.close(gone=True)

    def _is_mounted(self) -> bool:
        """Whether the mount point still shows this mount, and not what somebody mounted there later."""
        wanted = os.path.realpath(os.path.dirname(self.connection.mountpoint))
        path = os.path.join(wanted, os.path.basename(self.connection.mountpoint))
        shown = [mounted for mounted in mount.mount_table() if mounted.path == path]
        return bool(shown) and shown[-1].device == os.makedev(0, self.connection.number)

    def detach(self) -> Connection:
        """Stop serving and leave the mount as it is, to be served by another process."""
        self._handles.close_root()
        self.session.stop()
        return self.connection

    def close(self, *, gone: bool = False) -> None:
        """After :meth:`detach`: let go of the mount and of the workspace, for good; ``gone``: it is unmounted."""
        if self._served.backing is not None:
            self._served.backing.close(gone=gone)
            self._served.backing = None
        os.close(self.connection.fd)
        self.session.close()

    # Checkpoint

    def flush_writable(self) -> None:
        """Have every page written that a mapping dirtied. Raises OSError when the kernel could not write one."""
        with self.session.pacing.hurry():
            self._flush_writable()

    def _flush_writable(self) -> None:
        with self._workspace.lock:
            writers = list(self._served.writers)
        for ino in writers:
            try:
                self._flush_inode(ino)
            except OSError:
                if self._is_written(ino):
                    raise

    def _flush_inode(self, ino: int) -> None:
        self._handles.flush_inode(ino, self._served, lambda ino: self._notify(protocol.invalidate_inode(ino)))

    def _is_written(self, ino: int) -> bool:
        """Whether an inode of the view is open for writing. One that a restore took away has nowhere to flush to."""
        with self._workspace.lock:
            try:
                self._workspace.view.inode(ino)
            except OSError:
                return False
            return ino in self._served.writers

    # Restore

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Around a whole restore, from before the flush: names and attributes are handed out uncached.

        An answer that the kernel has not yet taken in when its notification arrives must not stay for ever.
        """
        self._served.valid = 0
        with self.session.pacing.hurry():
            try:
                yield
            finally:
                if self._changes is not None:  # The restore failed after its swap: the kernel must follow all the same.
                    self.invalidate(self._changes)
                self._served.valid = protocol.FOREVER

    def begin_restore(self, changes: Changes) -> None:
        """At the swap of views, under the workspace's lock: from now on the kernel's old pages are refused."""
        served = self._served
        changed = changes.inodes
        served.valid = 0
        pending = {ino for ino in changed if ino in served.lookups} if served.complete else set(changed)
        if ROOT_INO in changed:
            pending.add(ROOT_INO)  # known to the kernel from the mount on, without a lookup
        pending.update(served.writers)
        pending.update(ino for ino in served.invalidating)
        served.invalidating = pending
        served.stale.update(pending)
        served.appending.update(ino for ino in served.writers if ino in pending)
        self._pending = list(pending)
        for ino in changes.revived:
            if ino in served.dead or not served.complete:
                served.dead.discard(ino)
                served.generations[ino] = int.from_bytes(os.urandom(4), "little") >> 1 or 1
        self._changes = changes

    def invalidate(self, changes: Changes) -> list[Handle]:
        """After the swap: make the kernel drop every page, attribute and name that changed.

        Returns the open files whose inode is gone, and those still open for writing.
        """
        served, lock = self._served, self._workspace.lock
        unheard: list[int] = []
        try:
            for ino in self._pending:
                self._invalidate_inode(ino, unheard)
                served.invalidating.discard(ino)
        finally:
            self._changes = None
            with lock:
                served.invalidating = set()
                again, served.discarded = served.discarded, set()
        for ino in again:
            # Pages whose writing was acknowledged but discarded may be left in the cache as clean.
            self._invalidate_inode(ino, unheard)
        complete, lookups = served.complete, served.lookups
        placed = {(parent, name): None for ino, parent, name in changes.moved if ino in lookups or not complete}
        for parent, name in placed:
            self._look(parent, name)
        changed = [(parent, name) for parent, name in changes.names if parent in lookups or not complete]
        for parent, name in changed:
            if (parent, name) not in placed:
                self._notify(protocol.invalidate_entry(parent, name))
        for parent in dict.fromkeys(parent for parent, _ in changed):
            # Who was taking in a listing of before has it by now: a name's notification waits for the directory's lock.
            self._notify(protocol.invalidate_inode(parent))
        self._repeat(unheard, changes)
        with lock:
            opens = [ino for ino in self._pending if ino in served.opens]
        for ino in opens:
            self._handles.ask_size(ino)
        with lock:
            served.valid = protocol.FOREVER
            handles = [Handle(ino, ino in served.writers, ino in changes.gone) for ino in sorted(served.opens)]
        self._pending = []
        return [handle for handle in handles if handle.gone or handle.writable]

    def _invalidate_inode(self, ino: int, unheard: list[int]) -> None:
        if not self._notify(protocol.invalidate_inode(ino)) and ino in self._served.lookups:
            unheard.append(ino)

    def _look(self, parent: int, name: bytes) -> None:
        """Look a directory up in its new place: the kernel moves there what it has of it, mounts below included.

        Otherwise they would be detached when the old name goes.
        """
        self._notify(protocol.expire_entry(parent, name))
        with contextlib.suppress(OSError):
            above = self._handles.look(parent)
            try:
                os.close(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above))
            finally:
                os.close(above)

    def _repeat(self, unheard: list[int], changes: Changes) -> None:
        """Tell the kernel once more of inodes it did not know: a client may not have taken in our answer by then.

        It holds the directory's lock until it has, which the notification of a name waits for. Where no name was
        looked up (a file handle), all that is left is to try again for a moment.
        """
        for ino in unheard:
            for parent, name in changes.places(ino):
                self._notify(protocol.expire_entry(parent, name))
        again: list[int] = []
        for ino in unheard:
            self._invalidate_inode(ino, again)
        unheard = again
        for _ in range(_UNHEARD_TRIES):
            if not unheard:
                return
            time.sleep(_UNHEARD_PAUSE_S)
            again = []
            for ino in unheard:
                self._invalidate_inode(ino, again)
            unheard = again

    def _notify(self, message: bytes) -> bool:
        """Write a notification; False when the kernel does not know what it is about."""
        try:
            os.write(self.connection.fd, message)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOTDIR, errno.ENOTCONN):
                log.error("%s: the kernel refused a notification: %s", self.connection.mountpoint, error)
            return False
        return True

    def _refresh_later(self, ino: int) -> None:
        def job() -> None:
            self._notify(protocol.invalidate_inode(ino))
            self._handles.ask_size(ino)

        self.session.submit(job, asking=True)

    def _list_ahead(self, directory: int, cookie: int, names: int) -> bool:
        """See :class:`.ahead.Ahead`; called under the workspace's lock."""

        def done(reached: int, state: int) -> None:
            try:
                with self._workspace.lock:
                    self._served.withheld.discard(directory)
                    self._served.ahead.told(directory, reached, state)
                self.session.answer_held()
            finally:
                self.session.end_job(asking=True)

        if not self._server.lister.ready() or not self.session.begin_job(asking=True):
            return False
        self._served.withheld.add(directory)
        began = False
        try:
            began = self._server.lister.list(self._handles.wanted(directory, cookie, names, done))
        except (OSError, CowfsError) as error:
            log.debug("%s: not listed ahead: %s", self.connection.mountpoint, error)
        finally:
            if not began:
                self._served.withheld.discard(directory)
                self.session.end_job(asking=True)
        return began

    # Subtrees

    def removed(self, gone: Sequence[Removed], directory: int) -> None:
        """See cowfs.transport.Transport."""
        served, complete, lookups = self._served, self._served.complete, self._served.lookups
        for each in gone:
            if each.is_dir:
                with self._workspace.lock:
                    served.removed(each.ino)
            if (each.ino in lookups or not complete) and not self._delete(each):
                self._notify(protocol.invalidate_entry(each.parent, each.name))
            if each.left and (each.ino in lookups or not complete):
                self._left(each.ino)
        self._notify(protocol.invalidate_inode(directory))

    def _left(self, ino: int) -> None:
        """Drop what the kernel has of an inode that lost a name. One without any name that the kernel does not know is
        gone: nobody has it open, and no FORGET will come.

        Whom another process told of it, by an answer that was not taken in yet, has held the directory's lock since,
        which the notification of the name waited for; whom this one told of it counts as a lookup.
        """
        try:
            os.write(self.connection.fd, protocol.invalidate_inode(ino))
        except FileNotFoundError:
            with self._workspace.lock:
                view = self._workspace.view
                if ino in view.state.orphans and self._served.forget(ino, 0):
                    view.forget(ino)
        except OSError:
            return  # the mount has ended

    def _delete(self, removed: Removed) -> bool:
        try:
            os.write(self.connection.fd, protocol.delete(removed.parent, removed.ino, removed.name))
        except OSError as error:  # ENOENT: the kernel does not know it, or knows another one by now
            return error.errno not in (errno.ENOTEMPTY, errno.EBUSY)
        return True

    def made(self, parent: int, name: bytes) -> None:
        """See cowfs.transport.Transport."""
        self._notify(protocol.expire_entry(parent, name))
        self._notify(protocol.invalidate_inode(parent))

    # Mount points

    def mount_points(self) -> list[tuple[str, int]]:
        """See :func:`.points.mount_points`."""
        return points.mount_points(self._workspace, self.connection.number)
