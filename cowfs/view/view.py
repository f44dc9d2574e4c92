"""Every POSIX operation on a workspace's state, by inode number.

Each mutation is: check everything that can fail, journal the record, apply it. Errors are ``OSError``
with the errno of the system call; an inode that is not in the view is ESTALE. Permission checks are the
caller's (the kernel's). Every call is made under the workspace's lock.
"""

from __future__ import annotations

import errno
import stat

from cowfs.formats import inode as inode_fmt
from cowfs.formats import journal as j
from cowfs.formats.inode import NAME_MAX, XATTRS_MAX, Dirent
from cowfs.geometry import DIRECTORY_BLOCKS, PAGE
from cowfs.view import acl, apply
from cowfs.view.descriptors import Descriptors
from cowfs.view.directory import free_cookie
from cowfs.view.file import fresh_pages
from cowfs.view.inode import NOW, Caller, Inode, SetAttr
from cowfs.view.reading import check_namespace
from cowfs.view.sharing import PIECES_MAX, reach
from cowfs.view.state import fail

FILE_MAX = (1 << 44) - PAGE
"""Bytes in a file at most: 16 TiB less a page, as on ext4."""

LINK_MAX = 65_000
"""Names of a file at most, as on ext4."""

PATH_MAX = 4096
XATTR_SIZE_MAX = 65_536

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = apply.RENAME_EXCHANGE
RENAME_WHITEOUT = apply.RENAME_WHITEOUT
XATTR_CREATE, XATTR_REPLACE = 1, 2
_PUNCH = apply.PUNCH_HOLE | apply.KEEP_SIZE
_COPY_CHUNK = 1024 * 1024
CLONE_MIN = 16 * 1024
"""Bytes from which on a range is copied by reference: less is as soon copied as looked up."""

_CLONED_MIN = PIECES_MAX * CLONE_MIN
"""Bytes of a larger range that must be within reach, so that looking is worth it."""

_RECORD = 512  # about what a record without data takes of the disk, at most


class View(Descriptors):
    """All operations on one :class:`State`; every change goes through ``journal`` first.

    ``clock`` gives ns since the epoch. Whatever grows raises also EDQUOT beyond the quota and ENOSPC when the disk has
    nothing left for writers; what shrinks goes on.
    """

    __slots__ = ()

    # ---- names ---------------------------------------------------------------------------------

    def _new_name(self, parent: int, name: bytes) -> tuple[Inode, int]:
        """The directory in which ``name`` is free and may be made, and the cookie it gets."""
        directory_inode = self.state.inode(parent)
        directory = self.state.directory(directory_inode)
        self._check_length(directory_inode, name)
        self._check_name(name)
        if directory.lookup(name) is not None:
            raise fail(errno.EEXIST)
        if not directory_inode.nlink:
            raise fail(errno.ENOENT)
        return directory_inode, free_cookie(directory, name)

    @staticmethod
    def _check_length(directory: Inode, name: bytes) -> None:
        if len(name) > NAME_MAX:
            # Linux looks nothing up in a directory that was removed.
            raise fail(errno.ENAMETOOLONG if directory.nlink else errno.ENOENT)

    @staticmethod
    def _check_name(name: bytes) -> None:
        if name in (b".", b".."):
            raise fail(errno.EEXIST)
        if not name or b"/" in name or b"\0" in name:
            raise fail(errno.EINVAL)

    def _inherited(self, parent: Inode, mode: int, caller: Caller) -> tuple[int, int, bytes]:
        """(mode, gid, encoded xattrs) of a new inode: umask or default ACL, set-group-id of the directory."""
        gid = caller.gid
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        default = parent.xattrs.get(acl.DEFAULT)
        inherited = None if default is None or stat.S_ISLNK(mode) else acl.inherit(default, mode)
        if inherited is None or default is None:
            return (mode if stat.S_ISLNK(mode) else mode & ~(caller.umask & 0o777)), gid, b""
        mode, access = inherited
        pairs = [(acl.ACCESS, access)] if access else []
        if stat.S_ISDIR(mode):
            pairs.append((acl.DEFAULT, default))
        return mode, gid, inode_fmt.encode_xattrs(tuple(sorted(pairs))) if pairs else b""

    def _make(self, parent: int, name: bytes, mode: int, rdev: int, target: bytes, caller: Caller) -> Inode:
        directory, cookie = self._new_name(parent, name)
        mode, gid, xattrs = self._inherited(directory, mode, caller)
        self._room.take(self.state, DIRECTORY_BLOCKS if stat.S_ISDIR(mode) else 0, 1, _RECORD + len(target))
        record = j.Make(parent, self.state.next_ino, mode, caller.uid, gid, rdev, name, target, xattrs)
        return apply.make(self.state, self._journaled(record, caller), record, cookie)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A regular file, fifo, socket or device. Raises EEXIST, ENOENT, ENOTDIR, EINVAL, ENAMETOOLONG, ENOSPC."""
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise fail(errno.EINVAL)
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            rdev = 0
        return self._make(parent, name, mode & 0o177777, rdev, b"", caller)

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A regular file, made and opened for writing once. Errors as :meth:`mknod`."""
        directory, cookie = self._new_name(parent, name)
        mode, gid, xattrs = self._inherited(directory, stat.S_IFREG | mode & 0o7777, caller)
        self._room.take(self.state, 0, 1, _RECORD)
        record = j.Create(parent, self.state.next_ino, mode, caller.uid, gid, name, xattrs)
        inode = apply.create(self.state, self._journaled(record, caller), record, cookie)
        self._opens[inode.ino] = [1, 1]
        return inode

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A directory. Errors as :meth:`mknod`."""
        return self._make(parent, name, stat.S_IFDIR | mode & 0o7777, 0, b"", caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """A symbolic link. Raises also ENOENT for an empty target, ENAMETOOLONG for one of 4096 bytes."""
        if not target:
            raise fail(errno.ENOENT)
        if len(target) >= PATH_MAX:
            raise fail(errno.ENAMETOOLONG)
        return self._make(parent, name, stat.S_IFLNK | 0o777, 0, target, caller)

    def tmpfile(self, parent: int, mode: int, caller: Caller) -> Inode:
        """A regular file without a name (O_TMPFILE); it lives while it is open, or until it is linked."""
        directory = self.state.inode(parent)
        self.state.directory(directory)
        mode, gid, xattrs = self._inherited(directory, stat.S_IFREG | mode & 0o7777, caller)
        self._room.take(self.state, 0, 1, _RECORD)
        record = j.Tmpfile(parent, self.state.next_ino, mode, caller.uid, gid, xattrs)
        return apply.tmpfile(self.state, self._journaled(record, caller), record)

    def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Inode:
        """One more name. Raises EPERM for a directory, EMLINK at 65,000 names, else as :meth:`mknod`.

        Of inodes without a name only those that never had one (O_TMPFILE) can get one: ENOENT.
        """
        inode = self.state.inode(ino)
        _, cookie = self._new_name(parent, name)
        if inode.is_dir:
            raise fail(errno.EPERM)
        if not inode.nlink and ino not in self.state.linkable:
            raise fail(errno.ENOENT)
        if inode.nlink >= LINK_MAX:
            raise fail(errno.EMLINK)
        self._room.take(self.state, 0, 0, _RECORD)
        if ino in self.state.orphans and (ino < self.state.first_ino or ino in self._ended):
            self._carry(inode, caller)
        record = j.Link(ino, parent, name)
        return apply.link(self.state, self._journaled(record, caller), record, cookie)

    def _entry(self, parent: int, name: bytes) -> tuple[Inode, Dirent]:
        directory = self.state.inode(parent)
        entry = self.state.directory(directory).lookup(name)
        self._check_length(directory, name)
        if entry is None:
            raise fail(errno.ENOENT)
        return self.state.inode(entry.ino), entry

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Inode:
        """Remove a name that is not a directory's; returns its inode. Raises ENOENT, EISDIR."""
        inode, entry = self._entry(parent, name)
        if inode.is_dir:
            raise fail(errno.EISDIR)
        orphan = 1 if inode.nlink == 1 and self.is_open(inode.ino) else 0
        record = j.Unlink(parent, inode.ino, orphan, name)
        apply.unlink(self.state, self._journaled(record, caller), record, entry)
        self._lost_name(inode.ino, orphan)
        return inode

    def _lost_name(self, ino: int, orphan: int) -> None:
        if not orphan and ino in self.state.orphans:
            self._ended.add(ino)

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Inode:
        """Remove an empty directory; returns its inode. Raises ENOENT, ENOTDIR, ENOTEMPTY, EINVAL for "."."""
        if name == b".":
            raise fail(errno.EINVAL)
        if name == b"..":
            raise fail(errno.ENOTEMPTY)
        inode, entry = self._entry(parent, name)
        if not inode.is_dir:
            raise fail(errno.ENOTDIR)
        if len(self.state.directory(inode)):
            raise fail(errno.ENOTEMPTY)
        record = j.Unlink(parent, inode.ino, self.is_open(inode.ino), name)
        apply.unlink(self.state, self._journaled(record, caller), record, entry)
        return inode

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> Inode | None:
        """Rename, with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT; returns the inode that lost its name.

        Raises ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL (into its own subtree, or bad flags),
        EBUSY for "." and "..", ENAMETOOLONG, ENOSPC.
        """
        if flags & ~7 or (flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)):
            raise fail(errno.EINVAL)
        if name in (b".", b"..") or new_name in (b".", b".."):
            raise fail(errno.EBUSY)
        state = self.state
        target_dir = state.inode(new_parent)
        target = state.directory(target_dir)
        inode, entry = self._entry(parent, name)
        self._check_length(target_dir, new_name)
        there = target.lookup(new_name)
        old = None if there is None else state.inode(there.ino)
        exchange = flags & RENAME_EXCHANGE
        if old is None:
            if exchange:
                raise fail(errno.ENOENT)
            self._check_name(new_name)
            if not target_dir.nlink:
                raise fail(errno.ENOENT)
        elif flags & RENAME_NOREPLACE:
            raise fail(errno.EEXIST)
        if self._contains(inode, new_parent):
            raise fail(errno.EINVAL)
        if old is not None and self._contains(old, parent):
            raise fail(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if old is inode or (old is not None and old.ino == inode.ino):
            return None
        if old is not None and not exchange:
            self._check_replace(inode, old)
        cookie = free_cookie(target, new_name) if old is None else 0
        orphan = 0
        if old is not None and not exchange and self.is_open(old.ino):
            orphan = 1 if old.is_dir or old.nlink == 1 else 0
        whiteout = uid = gid = 0
        if flags & RENAME_WHITEOUT:
            self._room.take(state, 0, 1, _RECORD)
            whiteout, uid = state.next_ino, caller.uid
            _, gid, _ = self._inherited(state.inode(parent), stat.S_IFCHR, caller)
        record = j.Rename(
            parent, new_parent, inode.ino, old.ino if old else 0, orphan, flags & 6, whiteout, uid, gid, name, new_name
        )
        apply.rename(state, self._journaled(record, caller), record, cookie, entry)
        if record.replaced:
            self._lost_name(record.replaced, orphan)
        return None if exchange else old

    def _check_replace(self, inode: Inode, old: Inode) -> None:
        if old.is_dir:
            if not inode.is_dir:
                raise fail(errno.EISDIR)
            if len(self.state.directory(old)):
                raise fail(errno.ENOTEMPTY)
        elif inode.is_dir:
            raise fail(errno.ENOTDIR)

    def _contains(self, inode: Inode, directory: int) -> bool:
        """Whether ``directory`` is ``inode`` or lies below it."""
        if not inode.is_dir:
            return False
        at = self.state.inode(directory)
        while at.ino != inode.ino:
            if not at.links:
                return False
            at = self.state.inode(at.links[0][0])
        return True

    # ---- attributes ----------------------------------------------------------------------------

    def setattr(self, ino: int, changes: SetAttr, caller: Caller) -> Inode:
        """Change attributes, truncation included. Raises EISDIR, EINVAL, EFBIG for a wrong size."""
        inode = self.state.inode(ino)
        valid = j.SET_KILL_PRIV if changes.kill_priv else 0
        size = 0
        if changes.size is not None:
            size = changes.size
            data = self.state.file(inode)
            if not 0 <= size <= FILE_MAX:
                raise fail(errno.EFBIG if size > 0 else errno.EINVAL)
            if size < inode.size:
                data.allocated(size // PAGE, -(-inode.size // PAGE))  # what is damaged must fail here
            elif size > inode.size:
                self._room.take(self.state, 0, 0, _RECORD)
            valid |= j.SET_SIZE
        mode, uid, gid = changes.mode, changes.uid, changes.gid
        if mode is not None:
            valid |= j.SET_MODE
        if uid is not None:
            valid |= j.SET_UID
        if gid is not None:
            valid |= j.SET_GID
        time = self._clock()
        atime, mtime, ctime = (wanted if wanted is None or isinstance(wanted, int) else time for wanted in changes[4:7])
        if atime is not None:
            valid |= j.SET_ATIME
        if mtime is not None:
            valid |= j.SET_MTIME
        if ctime is not None:
            valid |= j.SET_CTIME
        record = j.SetAttributes(ino, valid, mode or 0, uid or 0, gid or 0, size, atime or 0, mtime or 0, ctime or 0)
        self._journal.append(record, time, caller.connection, caller.unique)
        return apply.set_attributes(self.state, time, record)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set an extended attribute.

        Raises EEXIST, ENODATA, ERANGE, E2BIG, ENOSPC, EINVAL (a bad ACL), EOPNOTSUPP (no namespace of this filesystem).
        """
        inode = self.state.inode(ino)
        if not 0 < len(name) <= NAME_MAX:
            raise fail(errno.ERANGE)
        check_namespace(name)
        if len(value) > XATTR_SIZE_MAX:
            raise fail(errno.E2BIG)
        if flags & ~3:
            raise fail(errno.EINVAL)
        if flags & XATTR_CREATE and name in inode.xattrs:
            raise fail(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in inode.xattrs:
            raise fail(errno.ENODATA)
        mode, value = self._checked_acl(inode, name, value)
        after = {**inode.xattrs, name: value}
        if sum(6 + len(key) + len(data) for key, data in after.items()) > XATTRS_MAX - 2:
            raise fail(errno.ENOSPC)
        self._room.take(self.state, 0, 0, _RECORD + len(value))
        record = j.SetXattr(ino, mode, name, value)
        apply.set_xattr(self.state, self._journaled(record, caller), record)

    @staticmethod
    def _checked_acl(inode: Inode, name: bytes, value: bytes) -> tuple[int, bytes]:
        """(mode afterwards, value to store); an access ACL that the mode expresses stores nothing."""
        if name not in (acl.ACCESS, acl.DEFAULT) or not value:
            return inode.mode, value
        entries = acl.decode(value)
        if entries is None:
            raise fail(errno.EINVAL)
        if name == acl.DEFAULT:
            if not inode.is_dir:
                raise fail(errno.EACCES)
            return inode.mode, value
        return acl.mode_of(entries, inode.mode), b"" if acl.is_minimal(entries) else value

    def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        """Remove an extended attribute. Errors as getxattr; an ACL need not be there: the kernel asks for that."""
        if name not in self.state.inode(ino).xattrs:
            if name in (acl.ACCESS, acl.DEFAULT):
                return
            check_namespace(name)
            raise fail(errno.ENODATA)
        record = j.RemoveXattr(ino, name)
        apply.remove_xattr(self.state, self._journaled(record, caller), record)

    # ---- data ----------------------------------------------------------------------------------

    def write(
        self,
        ino: int,
        offset: int,
        data: bytes | memoryview,
        caller: Caller,
        *,
        append: bool = False,
        kill_priv: bool = False,
    ) -> int:
        """Write ``data`` at ``offset``, or at the end of the file; returns how many bytes, at most 4 MiB or so.

        Raises EFBIG, EISDIR, EINVAL.
        """
        state = self.state
        inode = state.known.get(ino) or state.inode(ino)
        target = state.file(inode)
        if append:
            offset = inode.size
        length = len(data)
        if length > j.WRITE_DATA_MAX:
            data, length = data[: j.WRITE_DATA_MAX], j.WRITE_DATA_MAX
        if offset < 0:
            raise fail(errno.EINVAL)
        if offset + length > FILE_MAX:
            raise fail(errno.EFBIG)
        if not length:
            return 0
        fresh = fresh_pages(target, offset, offset + length)  # what is damaged must fail before it is journaled
        self._room.take(state, 8 * fresh, 0, length)
        time = self._clock()
        kill = 1 if kill_priv else 0
        source, position = self._journal.append_write(ino, offset, kill, data, time, caller.connection, caller.unique)
        apply.write(state, time, ino, offset, length, kill, source, position, fresh)
        return length

    def fallocate(self, ino: int, mode: int, offset: int, length: int, caller: Caller) -> None:
        """fallocate(2) modes 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE and ZERO_RANGE.

        A copy-on-write store can reserve nothing: allocation sets the size and keeps holes holes.
        Raises EINVAL, EFBIG, EOPNOTSUPP, EISDIR.
        """
        inode = self.state.inode(ino)
        data = self.state.file(inode)
        if offset < 0 or length <= 0:
            raise fail(errno.EINVAL)
        if mode not in (0, apply.KEEP_SIZE, _PUNCH, apply.ZERO_RANGE, apply.ZERO_RANGE | apply.KEEP_SIZE):
            raise fail(errno.EOPNOTSUPP)
        if offset + length > FILE_MAX:
            raise fail(errno.EFBIG)
        if offset < inode.size and mode & (apply.PUNCH_HOLE | apply.ZERO_RANGE):
            end = min(offset + length, inode.size)
            data.allocated(offset // PAGE, -(-end // PAGE))  # what is damaged must fail here
        if mode != _PUNCH:
            self._room.take(self.state, 0, 0, _RECORD)
        # The kernel does not say here whether the caller keeps set-id bits: the superuser does.
        record = j.Allocate(ino, mode, offset, length, 1 if caller.uid else 0)
        apply.allocate(self.state, self._journaled(record, caller), record)

    def copy_range(self, source: int, source_offset: int, ino: int, offset: int, length: int, caller: Caller) -> int:
        """Copy bytes between two files; returns how many: as far as they may be taken by reference, else at most 1 MiB.

        Raises EINVAL, EFBIG, EISDIR.
        """
        origin, inode = self.state.inode(source), self.state.inode(ino)
        self.state.file(inode)
        if offset < 0 or source_offset < 0:
            raise fail(errno.EINVAL)
        length = min(length, max(origin.size - source_offset, 0))
        if source == ino and source_offset < offset + length and offset < source_offset + length:
            raise fail(errno.EINVAL)
        if length >= CLONE_MIN and self._clones(origin, source_offset, inode, offset, length, caller):
            data, end = self.state.file(origin), source_offset + length
            reached = reach(data, source_offset, end, self.state.owner) - source_offset
            if reached < length:
                reached -= reached % PAGE
            if reached == length or reached >= _CLONED_MIN:
                return self._clone(j.CloneRange(source, source_offset, ino, offset, reached, b""), caller)
        found = self.read(source, source_offset, min(length, _COPY_CHUNK))
        return self.write(ino, offset, found, caller, kill_priv=caller.uid != 0)

    @staticmethod
    def _clones(origin: Inode, source_offset: int, inode: Inode, offset: int, length: int, caller: Caller) -> bool:
        """Whether a range can be taken by reference: whole pages, of a file that a successor will know, too."""
        whole = not length % PAGE or (source_offset + length == origin.size and offset + length >= inode.size)
        keeps = caller.uid == 0 and inode.mode & (stat.S_ISUID | stat.S_ISGID)
        return whole and not source_offset % PAGE and not offset % PAGE and bool(origin.nlink) and not keeps

    def _clone(self, record: j.CloneRange, caller: Caller) -> int:
        if record.offset + record.length > FILE_MAX:
            raise fail(errno.EFBIG)
        state = self.state
        target = state.file(state.inode(record.ino))
        fresh = fresh_pages(target, record.offset, record.offset + record.length)
        self._room.take(state, 8 * fresh, 0, _RECORD)
        apply.clone_range(state, self._journaled(record, caller), record)
        return record.length


__all__ = ["NOW", "Caller", "SetAttr", "View"]
