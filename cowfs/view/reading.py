"""Everything that can be asked of a state without changing it; a snapshot is looked at through this alone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from cowfs.formats.inode import NAME_MAX
from cowfs.geometry import PAGE, SECTOR
from cowfs.view import acl
from cowfs.view.file import joined
from cowfs.view.inode import Inode, Statfs, ViewStatistics
from cowfs.view.room import Room
from cowfs.view.state import State, fail

_NAMESPACES = (b"user.", b"trusted.", b"security.")


def check_namespace(name: bytes) -> None:
    """Refuse the name of an extended attribute that is no ACL and in none of the namespaces of this filesystem.

    Of ``system.`` the kernel checks ACLs alone, so that anybody could set others on any file.
    """
    if name in (acl.ACCESS, acl.DEFAULT):
        return
    if not name.startswith(_NAMESPACES):
        raise fail(errno.EOPNOTSUPP)
    if name in _NAMESPACES:
        raise fail(errno.EINVAL)


class ReadView:
    """The reading operations on one :class:`State`. ``room``: what the workspace may still take."""

    __slots__ = ("_room", "state")

    def __init__(self, state: State, room: Room) -> None:
        self.state = state
        self._room = room

    def inode(self, ino: int) -> Inode:
        """The inode of that number. Raises ESTALE."""
        return self.state.inode(ino)

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """The inode that ``name`` names in ``parent``, or None. Raises ESTALE, ENOTDIR, ENAMETOOLONG."""
        state = self.state
        directory_inode = state.inode(parent)
        directory = state.directory(directory_inode)
        if name in (b".", b".."):
            return directory_inode if name == b"." else state.inode(self._parent_of(directory_inode))
        entry = directory.lookup(name)
        if entry is None:
            if len(name) > NAME_MAX:
                raise fail(errno.ENAMETOOLONG)
            return None
        return state.inode(entry.ino)

    def _parent_of(self, directory: Inode) -> int:
        return directory.links[0][0] if directory.links else directory.ino

    def readlink(self, ino: int) -> bytes:
        """The target of a symlink. Raises EINVAL for anything else."""
        target = self.state.inode(ino).data
        if not isinstance(target, bytes):
            raise fail(errno.EINVAL)
        return target

    def readdir(self, ino: int, cookie: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """(cookie, name, inode, type) after ``cookie``, in cookie order; 1 and 2 are "." and "..".

        The iterator must be used up before anything in the directory changes.
        """
        directory_inode = self.state.inode(ino)
        directory = self.state.directory(directory_inode)
        if cookie < 1:
            yield 1, b".", ino, stat.S_IFDIR >> 12
        if cookie < 2:
            yield 2, b"..", self._parent_of(directory_inode), stat.S_IFDIR >> 12
        if directory_inode.nlink:
            for entry in directory.entries(max(cookie, 2)):
                yield entry.cookie, entry.name, entry.ino, entry.kind

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; shorter at the end of the file. Raises EISDIR, Corrupt."""
        return joined(self.pieces(ino, offset, size))

    def pieces(self, ino: int, offset: int, size: int) -> list[bytes]:
        """The same in pieces, as they are stored; none at the end of the file."""
        inode = self.state.inode(ino)
        size = min(size, inode.size - offset)
        data = self.state.file(inode)
        return data.pieces(offset, size) if size > 0 else []

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value of an extended attribute. Raises ENODATA, EOPNOTSUPP and EINVAL (no such namespace)."""
        value = self.state.inode(ino).xattrs.get(name)
        if value is None:
            check_namespace(name)
            raise fail(errno.ENODATA)
        return value

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of all extended attributes, sorted."""
        return sorted(self.state.inode(ino).xattrs)

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE at 4 KiB granularity. Raises ENXIO at or past the end."""
        inode = self.state.inode(ino)
        data = self.state.file(inode)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise fail(errno.EINVAL)
        if not 0 <= offset < inode.size:
            raise fail(errno.ENXIO)
        page, end = offset // PAGE, -(-inode.size // PAGE)
        for first, last in data.runs(page, end):
            if whence == os.SEEK_DATA:
                return max(offset, first * PAGE)
            if first > page:
                return offset
            return min(last * PAGE, inode.size)
        if whence == os.SEEK_DATA:
            raise fail(errno.ENXIO)
        return offset

    def statfs(self) -> Statfs:
        """What the workspace occupies and may still occupy."""
        return self._room.statfs(self.state)

    def statistics(self) -> ViewStatistics:
        """Counts of this moment."""
        state = self.state
        return ViewStatistics(
            len(state.live), len(state.known), len(state.orphans), state.next_ino,
            state.files + len(state.orphans), state.sectors * SECTOR,
        )  # fmt: skip
