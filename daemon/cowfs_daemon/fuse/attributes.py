"""Requests about one inode's attributes, xattrs and symlink target."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence

from cowfs.view import acl
from cowfs.view.inode import NOW, Caller, Inode, SetAttr, clamped
from cowfs.view.view import View
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.callers import caller, credentials, drop_group_bit, listed
from cowfs_daemon.fuse.served import Served

_SETATTR = struct.Struct("<IIQQQqqqIIIIIIII")
_GETXATTR = struct.Struct("<II")
_SETXATTR = struct.Struct("<II")
_SETXATTR_EXT = struct.Struct("<IIII")
_AT = protocol.HEADER_BYTES
_NOTHING = SetAttr()


def getattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The attributes, to be cached until they change."""
    inode = view.inode(nodeid)
    if served.stale:
        served.stale.discard(nodeid)
    return protocol.attributes(unique, inode)


def statx(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The attributes with the time of birth."""
    inode = view.inode(nodeid)
    if served.stale:
        served.stale.discard(nodeid)
    return protocol.statx(unique, inode)


def setattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """chmod, chown, truncate, utimensat."""
    (
        valid, _, _, length, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _,
    ) = protocol.unpack(_SETATTR, request, size)  # fmt: skip
    changes = SetAttr(
        mode & 0o7777 if valid & protocol.FATTR_MODE else None,
        uid if valid & protocol.FATTR_UID else None,
        gid if valid & protocol.FATTR_GID else None,
        length if valid & protocol.FATTR_SIZE else None,
        (NOW if valid & protocol.FATTR_ATIME_NOW else _ns(atime, atime_ns)) if valid & protocol.FATTR_ATIME else None,
        (NOW if valid & protocol.FATTR_MTIME_NOW else _ns(mtime, mtime_ns)) if valid & protocol.FATTR_MTIME else None,
        _ns(ctime, ctime_ns) if valid & protocol.FATTR_CTIME else None,
        # With HANDLE_KILLPRIV_V2 the kernel says so for truncate only: chown clears by itself, of all but directories.
        bool(valid & protocol.FATTR_KILL_SUIDGID),
    )
    who = caller(served, request, unique)
    if changes.kill_priv:
        drop_group_bit(served, view, nodeid, who)
    elif changes == _NOTHING and _chowned(served, view.inode(nodeid), who):
        changes = changes._replace(kill_priv=True)
    return protocol.attributes(unique, view.setattr(nodeid, changes, who))


def _chowned(served: Served, inode: Inode, who: Caller) -> bool:
    """Whether a request that changes nothing is a chown to no new ids, which clears set-id bits all the same.

    A write to such a file may begin with the same request: so a stranger's is not refused and clears nothing here, nor
    does that of root, whose writes leave the bits.
    """
    if inode.is_dir or not inode.mode & (stat.S_ISUID | stat.S_ISGID):
        return False
    their = credentials(who.pid, served.owners)
    return their.uid == inode.uid and not their.keeps


def _ns(seconds: int, ns: int) -> int:
    return clamped(seconds * protocol.GIGA + ns)


def statfs(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Sizes of the workspace."""
    sizes = view.statfs()
    return protocol.statfs(unique, sizes.block_size, sizes.blocks, sizes.blocks_free, sizes.files, sizes.files_free)


def readlink(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The target of a symlink."""
    return protocol.data(unique, view.readlink(nodeid))


def getxattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The value of an xattr, or its length."""
    room, _ = protocol.unpack(_GETXATTR, request, size)
    value = view.getxattr(nodeid, protocol.name_at(request, size, _AT + _GETXATTR.size))
    return _sized(unique, room, value)


def listxattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The names of all xattrs that the caller may know of, each with its NUL, or their length."""
    room, _ = protocol.unpack(_GETXATTR, request, size)
    names = listed(view.listxattr(nodeid), protocol.credentials(request)[2])
    return _sized(unique, room, b"".join(name + b"\0" for name in names))


def _sized(unique: int, room: int, value: bytes) -> bytes:
    if not room:
        return protocol.counted(unique, len(value))
    if len(value) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return protocol.data(unique, value)


def setxattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Set an xattr. Setting an access ACL may clear the set-group-id bit, as chmod does."""
    layout = _SETXATTR_EXT if served.setxattr_ext else _SETXATTR
    length, flags, *rest = protocol.unpack(layout, request, size)
    at = _AT + layout.size
    name = protocol.name_at(request, size - length, at)
    who = caller(served, request, unique)
    view.setxattr(nodeid, name, bytes(request[size - length : size]), flags, who)
    return _kill_sgid(view, unique, nodeid, name, rest, who)


def finish_setxattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The rest of SETXATTR when the xattr has been set."""
    layout = _SETXATTR_EXT if served.setxattr_ext else _SETXATTR
    length, _, *rest = protocol.unpack(layout, request, size)
    name = protocol.name_at(request, size - length, _AT + layout.size)
    return _kill_sgid(view, unique, nodeid, name, rest, caller(served, request, unique))


def _kill_sgid(view: View, unique: int, nodeid: int, name: bytes, rest: Sequence[int], who: Caller) -> bytes:
    """The kernel sets the flag for a default ACL too, where ext4 clears nothing."""
    if name == acl.ACCESS and rest and rest[0] & protocol.SETXATTR_ACL_KILL_SGID:
        mode = view.inode(nodeid).mode
        if mode & stat.S_ISGID:
            view.setattr(nodeid, SetAttr(mode=mode & 0o7777 & ~stat.S_ISGID), who)
    return protocol.error(unique, 0)


def removexattr(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Remove an xattr."""
    view.removexattr(nodeid, protocol.name_at(request, size), caller(served, request, unique))
    return protocol.error(unique, 0)
