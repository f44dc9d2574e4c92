"""A POSIX filesystem by inode number in plain dictionaries: what the engine's view must be equal to.

It has the operations of the view (docs/architecture.md), the errno of Linux for each failure, and nothing clever:
no sharing, no layers, no storage. A snapshot is a deep copy. Where Linux leaves a choice, this is the one made:
fallocate reserves nothing; a directory's size and blocks are constants; an inode without a name lives while it is open.
``test_model.py`` runs it against a native directory, which is why it can be trusted.
"""

from __future__ import annotations

import copy
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from tests.support import acl
from tests.support.node import PAGE, Node

FILE_MAX = (1 << 44) - PAGE
LINK_MAX = 65_000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
COPY_MAX = 1024 * 1024
CAPABILITY = b"security.capability"


def refuse(code: int) -> NoReturn:
    """Fail like a system call."""
    raise OSError(code, os.strerror(code))


class Model:
    """The filesystem. ``next_ino`` is the number that the next new inode gets; the caller may set it before.

    A transport says when a write must clear set-id bits; fallocate and copy_range clear them unless root calls.
    """

    def __init__(self, clock: Callable[[], int], root_mode: int = 0o755) -> None:
        self.clock = clock
        self.next_ino = 2
        root = Node(1, stat.S_IFDIR | root_mode, 0, 0, 0, clock())
        root.nlink = 2
        self.nodes: dict[int, Node] = {1: root}
        self.opens: dict[int, int] = {}

    def snapshot(self) -> dict[int, Node]:
        """Everything that has a name, copied; descriptors are not part of a filesystem's state."""
        return copy.deepcopy({ino: node for ino, node in self.nodes.items() if node.nlink})

    def restore(self, nodes: dict[int, Node]) -> None:
        """Become a snapshot. Descriptors stay, and mean the inodes that exist in it."""
        self.nodes = copy.deepcopy(nodes)

    def forked(self, nodes: dict[int, Node]) -> Model:
        """Another filesystem that begins as a snapshot."""
        other = Model(self.clock)
        other.nodes = copy.deepcopy(nodes)
        other.next_ino = self.next_ino
        return other

    # -- looking

    def inode(self, ino: int) -> Node:
        """The inode, or ESTALE."""
        return self.nodes[ino] if ino in self.nodes else refuse(errno.ESTALE)

    def _directory(self, ino: int) -> Node:
        node = self.inode(ino)
        return node if node.is_dir else refuse(errno.ENOTDIR)

    def _regular(self, ino: int) -> Node:
        node = self.inode(ino)
        if node.is_dir:
            refuse(errno.EISDIR)
        return node if stat.S_ISREG(node.mode) else refuse(errno.EINVAL)

    def parent_of(self, ino: int) -> int:
        """The directory that names a directory; the root and what has no name are their own."""
        return next((n.ino for n in self.nodes.values() if n.is_dir and ino in n.entries.values()), ino)

    def _find(self, parent: int, name: bytes) -> Node | None:
        directory = self._directory(parent)
        if len(name) > 255:
            refuse(errno.ENAMETOOLONG if directory.nlink else errno.ENOENT)  # in a removed one nothing is looked up
        return self.nodes[directory.entries[name]] if name in directory.entries else None

    def lookup(self, parent: int, name: bytes) -> Node | None:
        """The inode of a name, "." and ".." too, or None."""
        if name in (b".", b".."):
            ino = self._directory(parent).ino
            return self.nodes[ino if name == b"." else self.parent_of(ino)]
        return self._find(parent, name)

    def readlink(self, ino: int) -> bytes:
        """A symlink's target."""
        node = self.inode(ino)
        return node.target if stat.S_ISLNK(node.mode) else refuse(errno.EINVAL)

    def readdir(self, ino: int, cookie: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """(cookie, name, inode, kind), in an order of its own: cookies are the engine's business."""
        node = self._directory(ino)
        kind = stat.S_IFDIR >> 12
        rows = [(b".", ino, kind), (b"..", self.parent_of(ino), kind)]
        rows += [(name, child, self.nodes[child].mode >> 12) for name, child in sorted(node.entries.items())]
        yield from ((number, *row) for number, row in enumerate(rows, 1) if number > cookie)

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Bytes, fewer at the end; holes are zeros."""
        return self._regular(ino).read(offset, size)

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE, a page being data when it was written."""
        node = self._regular(ino)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            refuse(errno.EINVAL)
        if not 0 <= offset < node.length:
            refuse(errno.ENXIO)
        if whence == os.SEEK_HOLE:
            return node.next_hole(offset)
        found = node.next_data(offset)
        return refuse(errno.ENXIO) if found is None else found

    # -- names

    def _new(self, parent: int, mode: int, rdev: int, caller: Any) -> Node:
        """An inode with the owner, mode and access list that its directory and its maker give it."""
        directory = self.nodes[parent]
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        node = Node(self.next_ino, mode, caller.uid, gid, rdev, self.clock())
        self.next_ino += 1
        default = directory.xattrs.get(acl.DEFAULT)
        if stat.S_ISLNK(mode):
            pass
        elif default is None:
            node.mode &= ~(caller.umask & 0o777)
        else:
            entries = acl.for_new(acl.unpack(default), mode)
            node.mode = node.mode & ~0o777 | acl.mode_bits(entries)
            if not acl.only_mode(entries):
                node.xattrs[acl.ACCESS] = acl.pack(entries)
            if node.is_dir:
                node.xattrs[acl.DEFAULT] = default
        return node

    def _room(self, parent: int, name: bytes) -> Node:
        """The directory that may get a new name."""
        if self._find(parent, name) is not None:
            refuse(errno.EEXIST)
        directory = self.nodes[parent]
        return directory if directory.nlink else refuse(errno.ENOENT)

    def _touch(self, *directories: Node) -> None:
        for directory in directories:
            directory.mtime = directory.ctime = self.clock()

    def _make(self, parent: int, name: bytes, mode: int, rdev: int, caller: Any) -> Node:
        directory = self._room(parent, name)
        node = self._new(parent, mode, rdev, caller)
        self.nodes[node.ino] = node
        directory.entries[name] = node.ino
        self._touch(directory)
        if node.is_dir:
            node.nlink = 2
            directory.nlink += 1
        return node

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Any) -> Node:
        """A file, fifo, socket or device."""
        if not (
            stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        ):
            refuse(errno.EINVAL)
        return self._make(parent, name, mode, rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Any) -> Node:
        """A directory."""
        return self._make(parent, name, stat.S_IFDIR | mode, 0, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Any) -> Node:
        """A symbolic link."""
        if not target:
            refuse(errno.ENOENT)
        if len(target) > 4095:
            refuse(errno.ENAMETOOLONG)
        node = self._make(parent, name, stat.S_IFLNK | 0o777, 0, caller)
        node.target = target
        return node

    def tmpfile(self, parent: int, mode: int, caller: Any) -> Node:
        """A file without a name, which link may give one; the caller opens it."""
        node = self._new(self._directory(parent).ino, stat.S_IFREG | mode, 0, caller)
        node.nlink, node.temporary = 0, True
        self.nodes[node.ino] = node
        return node

    def link(self, ino: int, parent: int, name: bytes, caller: Any) -> Node:
        """One more name for what is not a directory."""
        node = self.inode(ino)
        directory = self._room(parent, name)
        if node.is_dir:
            refuse(errno.EPERM)
        if not node.nlink and not node.temporary:
            refuse(errno.ENOENT)
        if node.nlink >= LINK_MAX:
            refuse(errno.EMLINK)
        directory.entries[name] = ino
        node.nlink += 1
        node.temporary = False
        node.ctime = self.clock()
        self._touch(directory)
        return node

    def _lose_name(self, node: Node) -> None:
        node.nlink = 0 if node.is_dir else node.nlink - 1
        node.ctime = self.clock()
        if not node.nlink and not self.opens.get(node.ino):
            del self.nodes[node.ino]

    def unlink(self, parent: int, name: bytes, caller: Any) -> None:
        """Remove a name that is not a directory's."""
        node = self._find(parent, name) or refuse(errno.ENOENT)
        if node.is_dir:
            refuse(errno.EISDIR)
        directory = self.nodes[parent]
        del directory.entries[name]
        self._touch(directory)
        self._lose_name(node)

    def rmdir(self, parent: int, name: bytes, caller: Any) -> None:
        """Remove an empty directory."""
        node = self._find(parent, name) or refuse(errno.ENOENT)
        if not node.is_dir:
            refuse(errno.ENOTDIR)
        if node.entries:
            refuse(errno.ENOTEMPTY)
        directory = self.nodes[parent]
        del directory.entries[name]
        directory.nlink -= 1
        self._touch(directory)
        self._lose_name(node)

    def _within(self, ino: int, ancestor: int) -> bool:
        """Whether ``ino`` is ``ancestor`` or lies below it."""
        while ino != ancestor and self.parent_of(ino) != ino:
            ino = self.parent_of(ino)
        return ino == ancestor

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Any) -> None:
        """Rename or exchange; the checks stand in the order of Linux."""
        if flags & ~7 or (flags & EXCHANGE and flags & (NOREPLACE | WHITEOUT)):
            refuse(errno.EINVAL)
        old_dir, new_dir = self._directory(parent), self._directory(new_parent)
        node = self._find(parent, name) or refuse(errno.ENOENT)
        other = self._find(new_parent, new_name)
        if flags & NOREPLACE and other is not None:
            refuse(errno.EEXIST)
        if flags & EXCHANGE and other is None:
            refuse(errno.ENOENT)
        if self._within(new_parent, node.ino):
            refuse(errno.EINVAL)
        if other is not None and self._within(parent, other.ino):
            refuse(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
        if node is other:
            return
        if not new_dir.nlink:
            refuse(errno.ENOENT)
        if other is not None and not flags & EXCHANGE:
            if node.is_dir and not other.is_dir:
                refuse(errno.ENOTDIR)
            if other.is_dir and not node.is_dir:
                refuse(errno.EISDIR)
            if other.entries:
                refuse(errno.ENOTEMPTY)
        self._move(old_dir, name, node, new_dir, new_name, other, flags, caller)

    def _move(
        self, old_dir: Node, name: bytes, node: Node, new_dir: Node, new_name: bytes, other: Node | None,
        flags: int, caller: Any,
    ) -> None:  # fmt: skip
        """The effect of a rename that may happen."""
        self._touch(old_dir, new_dir)
        node.ctime = self.clock()
        old_dir.nlink -= node.is_dir
        new_dir.nlink += node.is_dir
        new_dir.entries[new_name] = node.ino
        if other is not None and flags & EXCHANGE:
            old_dir.entries[name] = other.ino
            other.ctime = self.clock()
            new_dir.nlink -= other.is_dir
            old_dir.nlink += other.is_dir
            return
        del old_dir.entries[name]
        if other is not None:
            new_dir.nlink -= other.is_dir
            self._lose_name(other)
        if flags & WHITEOUT:
            self._make(old_dir.ino, name, stat.S_IFCHR, 0, caller)

    # -- attributes

    def setattr(self, ino: int, changes: Any, caller: Any) -> Node:
        """Size first, then owner, set-id, mode and times; a time that is no number means now."""
        node = self.inode(ino)
        now = self.clock()
        if changes.size is not None:
            self._regular(ino)
            if changes.size > FILE_MAX:
                refuse(errno.EFBIG)
            node.cut(changes.size)
            node.mtime = now
            node.xattrs.pop(CAPABILITY, None)
        if changes.uid is not None or changes.gid is not None:
            node.uid = node.uid if changes.uid is None else changes.uid
            node.gid = node.gid if changes.gid is None else changes.gid
            if not node.is_dir:
                node.drop_set_id()
                node.xattrs.pop(CAPABILITY, None)
        if changes.kill_priv:
            node.drop_set_id()
        if changes.mode is not None:
            node.mode = node.mode & ~0o7777 | changes.mode & 0o7777
            if acl.ACCESS in node.xattrs:
                node.xattrs[acl.ACCESS] = acl.pack(acl.after_chmod(acl.unpack(node.xattrs[acl.ACCESS]), changes.mode))
        node.ctime = changes.ctime if isinstance(changes.ctime, int) else now
        for field in ("atime", "mtime"):
            value = getattr(changes, field)
            if value is not None:
                setattr(node, field, value if isinstance(value, int) else now)
        return node

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """An attribute's value."""
        node = self.inode(ino)
        return node.xattrs[name] if name in node.xattrs else refuse(errno.ENODATA)

    def listxattr(self, ino: int) -> list[bytes]:
        """The attributes' names."""
        return sorted(self.inode(ino).xattrs)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Any) -> None:
        """Set an attribute; an access list changes the mode too, and is not kept when the mode says it all."""
        node = self.inode(ino)
        if not 0 < len(name) <= 255:
            refuse(errno.ERANGE)
        if len(value) > 65536:
            refuse(errno.E2BIG)
        if name not in (acl.ACCESS, acl.DEFAULT) and not name.partition(b".")[2]:
            refuse(errno.EINVAL if name in (b"user.", b"trusted.", b"security.") else errno.EOPNOTSUPP)
        if flags & os.XATTR_CREATE and name in node.xattrs:
            refuse(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in node.xattrs:
            refuse(errno.ENODATA)
        keep = True
        if name == acl.DEFAULT and not node.is_dir:
            refuse(errno.EACCES)
        if name == acl.ACCESS:
            entries = acl.unpack(value)
            node.mode = node.mode & ~0o777 | acl.mode_bits(entries)
            keep = not acl.only_mode(entries)
        node.xattrs.pop(name, None)
        if keep:
            node.xattrs[name] = value
        node.ctime = self.clock()

    def removexattr(self, ino: int, name: bytes, caller: Any) -> None:
        """Remove an attribute."""
        node = self.inode(ino)
        if name not in node.xattrs:
            if name in (acl.ACCESS, acl.DEFAULT):
                return
            refuse(errno.ENODATA)
        del node.xattrs[name]
        node.ctime = self.clock()

    # -- data

    def _modified(self, node: Node, kill_priv: bool) -> None:
        node.mtime = node.ctime = self.clock()
        node.xattrs.pop(CAPABILITY, None)
        if kill_priv:
            node.drop_set_id()

    def write(
        self, ino: int, offset: int, data: bytes, caller: Any, *, append: bool = False, kill_priv: bool = False
    ) -> int:
        """Write bytes; no bytes change nothing."""
        node = self._regular(ino)
        if append:
            offset = node.length
        if offset + len(data) > FILE_MAX:
            refuse(errno.EFBIG)
        if not data:
            return 0
        node.write(offset, data)
        self._modified(node, kill_priv)
        return len(data)

    def fallocate(self, ino: int, mode: int, offset: int, length: int, caller: Any) -> None:
        """Grow, punch or zero; whole pages become holes, the edges zeros, and nothing is reserved."""
        node = self._regular(ino)
        if offset < 0 or length <= 0:
            refuse(errno.EINVAL)
        if mode not in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            refuse(errno.EOPNOTSUPP)
        end = offset + length
        if end > FILE_MAX:
            refuse(errno.EFBIG)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            node.punch(offset, end)
        if not mode & KEEP_SIZE:
            node.length = max(node.length, end)
        self._modified(node, caller.uid != 0)

    def copy_range(self, source: int, source_offset: int, ino: int, offset: int, length: int, caller: Any) -> int:
        """Copy bytes, as a read and a write; at most 1 MiB a call, unless it is whole pages of a file with a name."""
        node = self._regular(ino)
        origin = self._regular(source)
        whole = min(length, max(origin.length - source_offset, 0))
        tail = source_offset + whole == origin.length and offset + whole >= node.length
        pages = not source_offset % 4096 and not offset % 4096 and (not whole % 4096 or tail)
        keeps = caller.uid == 0 and node.mode & 0o6000
        shared = whole >= 16_384 and pages and origin.nlink and not keeps
        data = self.read(source, source_offset, whole if shared else min(length, COPY_MAX))
        if source == ino and source_offset < offset + len(data) and offset < source_offset + len(data):
            refuse(errno.EINVAL)
        return self.write(ino, offset, data, caller, kill_priv=caller.uid != 0)

    # -- descriptors

    def opened(self, ino: int, writable: bool, caller: Any) -> None:
        """A descriptor keeps an inode."""
        self.opens[self.inode(ino).ino] = self.opens.get(ino, 0) + 1

    def released(self, ino: int, writable: bool, caller: Any) -> None:
        """The last descriptor of an inode without a name ends it."""
        if self.opens.get(ino):
            self.opens[ino] -= 1
            if not self.opens[ino] and ino in self.nodes and not self.nodes[ino].nlink:
                del self.nodes[ino]
