"""What pyfuse3 asks of a filesystem, answered from a workspace's view.

Concurrency: pyfuse3 runs every handler as a task of one trio loop. A handler that does not wait computes its answer
under the workspace's lock, and pyfuse3 writes it before any other task runs; :class:`.transport.Transport` relies on
that. Only fsync, and an opening for writing during a restore, wait.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import pyfuse3
import trio

from cowfs.errors import CowfsError
from cowfs.view.inode import Caller, Inode, SetAttr, clamped
from cowfs.view.view import View
from cowfs.workspace import Workspace
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.callers import drop_group_bit, listed
from cowfs_daemon.fuse.served import Served, is_writable

log = logging.getLogger("cowfs.pyfuse3")

F = TypeVar("F", bound=Callable[..., Any])


class Restores(Protocol):
    """What opening and closing a file ask of the transport, and tell it."""

    def writers_wait(self) -> trio.Event | None:
        """What an opening for writing has to wait for; None: nothing."""

    def released(self) -> None:
        """A file that was open for writing is closed; called under the workspace's lock."""

    def ask_size(self, ino: int) -> None:
        """Make the kernel ask for an inode's size; called by a thread that answers nothing."""


class Open(NamedTuple):
    """An open file: its inode, whether it is open for writing, and for whom."""

    ino: int
    writable: bool
    who: Caller


def answered(handler: F) -> F:
    """Errors of the engine become what pyfuse3 answers with."""

    @wraps(handler)
    async def guarded(self: Operations, *arguments: Any) -> Any:
        try:
            return await handler(self, *arguments)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except CowfsError as error:
            log.error("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(error.errno) from error
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return cast(F, guarded)


class Operations(pyfuse3.Operations):
    """The handlers. ``served``: what the kernel knows of; ``transport``: there once the mount is."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, workspace: Workspace, served: Served) -> None:
        super().__init__()
        self.transport: Restores | None = None
        self._workspace = workspace
        self._served = served
        self._numbers = itertools.count(1)
        self._files: dict[int, Open] = {}
        self._uniques = itertools.count(2)

    @property
    def _view(self) -> View:
        return self._workspace.view

    def _caller(self, ctx: pyfuse3.RequestContext | None) -> Caller:
        connection, unique = self._served.connection_id, next(self._uniques)
        if ctx is None:
            return Caller(0, 0, 0, 0, connection, unique)
        uid, gid = ctx.uid, ctx.gid
        if (owners := self._served.owners) is not None:
            uid, gid = owners.users.stored(uid), owners.groups.stored(gid)
        return Caller(uid, gid, ctx.pid, ctx.umask, connection, unique)

    # ---- names ---------------------------------------------------------------------------------

    @answered
    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A name -> its inode; inode number 0: there is none, which is remembered, too."""
        with self._workspace.lock:
            inode = self._view.lookup(parent, name) if name != b"." else self._view.inode(parent)
            if inode is None:
                unknown = pyfuse3.EntryAttributes()
                unknown.st_ino = 0
                unknown.entry_timeout = self._served.valid
                return unknown
            return self._entry(inode)

    def _entry(self, inode: Inode) -> pyfuse3.EntryAttributes:
        self._served.told(inode.ino)
        return self._attributes(inode)

    def _attributes(self, inode: Inode) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = inode.ino
        found.generation = self._served.generations.get(inode.ino, 0)
        found.entry_timeout = found.attr_timeout = self._served.valid
        found.st_mode, found.st_nlink = inode.mode, inode.nlink
        found.st_uid, found.st_gid, found.st_rdev = inode.uid, inode.gid, inode.rdev
        if (owners := self._served.owners) is not None:
            found.st_uid, found.st_gid = owners.users.shown(inode.uid), owners.groups.shown(inode.gid)
        found.st_size, found.st_blocks, found.st_blksize = inode.size, inode.blocks, protocol.BLOCK_SIZE
        found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns = inode.atime, inode.mtime, inode.ctime
        return found

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel drops inodes from its cache."""
        try:
            with self._workspace.lock:
                for ino, count in inode_list:
                    if self._served.forget(ino, count):
                        self._view.forget(ino)
        except (OSError, CowfsError) as error:
            log.error("forget: %s", error)

    @answered
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A file, device, pipe or socket."""
        with self._workspace.lock:
            return self._entry(self._view.mknod(parent, name, mode, rdev, self._caller(ctx)))

    @answered
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A directory."""
        with self._workspace.lock:
            return self._entry(self._view.mkdir(parent, name, mode, self._caller(ctx)))

    @answered
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A symbolic link."""
        with self._workspace.lock:
            return self._entry(self._view.symlink(parent, name, target, self._caller(ctx)))

    @answered
    async def link(self, ino: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """One more name for an inode."""
        with self._workspace.lock:
            return self._entry(self._view.link(ino, parent, name, self._caller(ctx)))

    @answered
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """A name of a file goes."""
        with self._workspace.lock:
            self._view.unlink(parent, name, self._caller(ctx))

    @answered
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """An empty directory goes."""
        with self._workspace.lock:
            self._served.removed(self._view.rmdir(parent, name, self._caller(ctx)).ino)

    @answered
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: pyfuse3.RequestContext
    ) -> None:
        """A name moves."""
        with self._workspace.lock:
            replaced = self._view.rename(parent, name, new_parent, new_name, flags, self._caller(ctx))
            if replaced is not None and replaced.is_dir:
                self._served.removed(replaced.ino)

    @answered
    async def readlink(self, ino: int, ctx: pyfuse3.RequestContext) -> bytes:
        """The target of a symlink."""
        with self._workspace.lock:
            return self._view.readlink(ino)

    @answered
    async def opendir(self, ino: int, ctx: pyfuse3.RequestContext) -> int:
        """The handle of a directory is its number."""
        with self._workspace.lock:
            self._view.state.directory(self._view.inode(ino))
        return ino

    @answered
    async def readdir(self, ino: int, cookie: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries behind a cookie. Nothing is kept between calls, so that each shows the view of its moment."""
        packed: list[tuple[bytes, int]] = []
        with self._workspace.lock:
            view = self._view
            try:
                for entry_cookie, name, number, _ in view.readdir(ino, cookie):
                    try:
                        inode = view.inode(number)
                    except (OSError, CowfsError):
                        continue  # damaged: its own lookup will tell
                    if not pyfuse3.readdir_reply(token, name, self._attributes(inode), entry_cookie):
                        break
                    packed.append((name, number))
            except (OSError, CowfsError):
                if not packed:  # else what lies behind the last of these names fails when the kernel asks for it
                    raise
            for name, number in packed:
                if name not in (b".", b".."):  # the kernel counts no lookup for these
                    self._served.told(number)

    async def releasedir(self, ino: int) -> None:
        """Nothing is kept of an open directory."""

    # ---- attributes ----------------------------------------------------------------------------

    @answered
    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """The attributes."""
        with self._workspace.lock:
            self._served.stale.discard(ino)
            return self._attributes(self._view.inode(ino))

    @answered
    async def setattr(
        self, ino: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        """chmod, chown, truncate, utimensat. The kernel leaves it to us to clear set-id bits."""
        uid, gid = attr.st_uid, attr.st_gid
        if (owners := self._served.owners) is not None:
            uid, gid = owners.users.stored(uid), owners.groups.stored(gid)
        changes = SetAttr(
            attr.st_mode & 0o7777 if fields.update_mode else None,
            uid if fields.update_uid else None,
            gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            clamped(attr.st_atime_ns) if fields.update_atime else None,
            clamped(attr.st_mtime_ns) if fields.update_mtime else None,
            clamped(attr.st_ctime_ns) if fields.update_ctime else None,
            bool(fields.update_size) and ctx.uid != 0,
        )
        who = self._caller(ctx)
        with self._workspace.lock:
            self._view.setattr(ino, changes, who)
            if changes.kill_priv:  # afterwards: the request may bring the mode, too, as the kernel had it
                drop_group_bit(self._served, self._view, ino, who)
            return self._attributes(self._view.inode(ino))

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Sizes of the workspace."""
        with self._workspace.lock:
            sizes = self._view.statfs()
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = sizes.block_size
        found.f_blocks, found.f_bfree, found.f_bavail = sizes.blocks, sizes.blocks_free, sizes.blocks_free
        found.f_files, found.f_ffree, found.f_favail = sizes.files, sizes.files_free, sizes.files_free
        found.f_namemax = 255
        return found

    @answered
    async def getxattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """The value of an xattr."""
        with self._workspace.lock:
            value = self._view.getxattr(ino, name)
        owners = self._served.owners
        return value if owners is None else owners.shown_xattr(name, value)

    @answered
    async def listxattr(self, ino: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """The names of all xattrs that the caller may know of."""
        with self._workspace.lock:
            names = self._view.listxattr(ino)
        return listed(names, ctx.pid)

    @answered
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Set an xattr; whether it must, or must not, be there pyfuse3 has looked itself."""
        if (owners := self._served.owners) is not None:
            value = owners.stored_xattr(name, value)
        with self._workspace.lock:
            self._view.setxattr(ino, name, value, 0, self._caller(ctx))

    @answered
    async def removexattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove an xattr."""
        with self._workspace.lock:
            self._view.removexattr(ino, name, self._caller(ctx))

    # ---- open files ----------------------------------------------------------------------------

    async def _may_open(self, ino: int | None, flags: int) -> None:
        """Wait until an opening with these flags may go on: writers must not come between the look of a restore for
        them and its swap; and of an inode that a restore has changed the kernel must have asked for the size first,
        where it appends."""
        while is_writable(flags) and (swapped := self._must_wait()) is not None:
            await swapped.wait()
        if ino in self._served.stale and self.transport is not None:
            await trio.to_thread.run_sync(self.transport.ask_size, ino)

    def _must_wait(self) -> trio.Event | None:
        return None if self.transport is None else self.transport.writers_wait()

    def _opened(self, inode: Inode, flags: int, who: Caller) -> pyfuse3.FileInfo:
        writable = is_writable(flags)
        self._view.opened(inode.ino, writable, who)
        self._served.opened(inode.ino, writable)
        number = next(self._numbers)
        self._files[number] = Open(inode.ino, writable, who)
        return pyfuse3.FileInfo(fh=number, keep_cache=True)

    @answered
    async def open(self, ino: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """A descriptor is opened."""
        who = self._caller(ctx)
        while True:
            await self._may_open(ino, flags)
            with self._workspace.lock:
                if is_writable(flags) and self._must_wait() is not None:
                    continue
                inode = self._view.inode(ino)
                if flags & os.O_TRUNC:
                    inode = self._emptied(ino, who)
                return self._opened(inode, flags, who)

    @answered
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """A regular file, made and opened; one that is already there is opened, unless O_EXCL."""
        who = self._caller(ctx)
        known: int | None = None
        while True:
            await self._may_open(known, flags)
            with self._workspace.lock:
                inode = self._view.lookup(parent, name)
                if is_writable(flags) and self._must_wait() is not None:
                    continue
                if inode is not None and inode.ino in self._served.stale and known != inode.ino:
                    known = inode.ino
                    continue
                return self._create(inode, parent, name, mode, flags, who)

    def _create(
        self, inode: Inode | None, parent: int, name: bytes, mode: int, flags: int, who: Caller
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        view = self._view
        if inode is None:
            inode = view.mknod(parent, name, stat.S_IFREG | mode & 0o7777, 0, who)
        elif flags & os.O_EXCL:
            raise pyfuse3.FUSEError(errno.EEXIST)
        elif not stat.S_ISREG(inode.mode) or who.uid not in (self._served.root, inode.uid):
            raise pyfuse3.FUSEError(errno.ESTALE)  # the kernel did not know it, and checked nothing: it looks again
        elif flags & os.O_TRUNC:
            inode = self._emptied(inode.ino, who)
        return self._opened(inode, flags, who), self._entry(inode)

    def _emptied(self, ino: int, who: Caller) -> Inode:
        kill = who.uid != self._served.root
        if kill:
            drop_group_bit(self._served, self._view, ino, who)
        return self._view.setattr(ino, SetAttr(size=0, kill_priv=kill), who)

    @answered
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """Bytes; fewer than asked for only at the end of the file."""
        with self._workspace.lock:
            return self._view.read(self._files[fh].ino, offset, size)

    @answered
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Bytes written by a system call, or pages dirtied through a mapping: pyfuse3 does not say which."""
        file = self._files[fh]
        who = self._caller(None)._replace(uid=file.who.uid, gid=file.who.gid, pid=file.who.pid)
        done, kill = 0, who.uid != self._served.root
        with self._workspace.lock:
            if kill:
                drop_group_bit(self._served, self._view, file.ino, who)
            try:
                while done < len(data):
                    piece = memoryview(data)[done:]
                    done += self._view.write(file.ino, offset + done, piece, who, kill_priv=kill)
            except (OSError, CowfsError):
                self._served.unwritten += 1
                raise
        return done

    async def flush(self, fh: int) -> None:
        """Everything answered is in the journal."""

    async def release(self, fh: int) -> None:
        """The last descriptor and the last mapping of one opening are gone."""
        file = self._files.pop(fh)
        try:
            with self._workspace.lock:
                self._served.released(file.ino, file.writable)
                if file.writable and self.transport is not None:
                    self.transport.released()
                self._view.released(file.ino, file.writable, self._caller(None))
        except OSError as error:
            if error.errno != errno.ESTALE:  # the inode went in a restore
                log.error("release of inode %d: %s", file.ino, error)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        """As durable as the journal."""
        await trio.to_thread.run_sync(self._workspace.sync)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """The same."""
        await trio.to_thread.run_sync(self._workspace.sync)
