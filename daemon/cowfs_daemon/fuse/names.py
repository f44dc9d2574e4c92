"""Requests about names: lookup, everything that makes or removes a name, directory listings."""

from __future__ import annotations

import errno
import os
import stat
import struct

from cowfs.errors import CowfsError
from cowfs.view.inode import Caller, Inode, SetAttr
from cowfs.view.view import View
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.callers import caller, drop_group_bit
from cowfs_daemon.fuse.served import Served, is_writable

_FORGET = struct.Struct("<Q")
_BATCH = struct.Struct("<II")
_FORGET_ONE = struct.Struct("<QQ")
_MKNOD = struct.Struct("<IIII")
_MKDIR = struct.Struct("<II")
_LINK = struct.Struct("<Q")
_RENAME = struct.Struct("<Q")
_RENAME2 = struct.Struct("<QII")
_CREATE = struct.Struct("<IIII")
_RELEASE = struct.Struct("<QIIQ")
_READDIR = struct.Struct("<QQI")
_AT = protocol.HEADER_BYTES
_CACHING = 1


def lookup(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes | None:
    """A name -> its inode; unknown names are remembered by the kernel too. None: answered later, see :mod:`.ahead`."""
    name = protocol.name_at(request, size)
    # EXPORT_SUPPORT: a file handle of an inode that the kernel dropped arrives as ".", of files too.
    if name == b".":
        return _entry(served, unique, view.inode(nodeid))
    inode = view.lookup(nodeid, name)
    if inode is None:
        return protocol.negative_entry(unique, served.valid)
    if inode.ino not in served.lookups and served.valid:
        ahead = served.ahead
        if ahead.asked(nodeid) and ahead.hold(nodeid, request, size):
            return None
    return _entry(served, unique, inode)


def _entry(served: Served, unique: int, inode: Inode) -> bytes:
    lookups, ino = served.lookups, inode.ino
    lookups[ino] = lookups.get(ino, 0) + 1
    generation = served.generations.get(ino, 0) if served.generations else 0
    return protocol.entry(unique, inode, served.valid, generation)


def forget(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> None:
    """The kernel drops an inode from its cache; not answered."""
    (count,) = protocol.unpack(_FORGET, request, size)
    if served.forget(nodeid, count):
        view.forget(nodeid)


def batch_forget(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> None:
    """Many forgets at once; not answered."""
    count, _ = protocol.unpack(_BATCH, request, size)
    for at in range(_AT + _BATCH.size, _AT + _BATCH.size + count * _FORGET_ONE.size, _FORGET_ONE.size):
        ino, lookups = protocol.unpack(_FORGET_ONE, request, size, at)
        if served.forget(ino, lookups):
            view.forget(ino)


def mknod(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A file, device, pipe or socket."""
    mode, rdev, umask, _ = protocol.unpack(_MKNOD, request, size)
    name = protocol.name_at(request, size, _AT + _MKNOD.size)
    return _entry(served, unique, view.mknod(nodeid, name, mode, rdev, caller(served, request, unique, umask)))


def mkdir(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A directory."""
    mode, umask = protocol.unpack(_MKDIR, request, size)
    name = protocol.name_at(request, size, _AT + _MKDIR.size)
    return _entry(served, unique, view.mkdir(nodeid, name, mode, caller(served, request, unique, umask)))


def symlink(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A symbolic link."""
    name, target = protocol.names_at(request, size)
    return _entry(served, unique, view.symlink(nodeid, name, target, caller(served, request, unique)))


def link(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """One more name for an inode."""
    (ino,) = protocol.unpack(_LINK, request, size)
    name = protocol.name_at(request, size, _AT + _LINK.size)
    return _entry(served, unique, view.link(ino, nodeid, name, caller(served, request, unique)))


def unlink(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A name of a file goes."""
    view.unlink(nodeid, protocol.name_at(request, size), caller(served, request, unique))
    return protocol.error(unique, 0)


def rmdir(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """An empty directory goes."""
    served.removed(view.rmdir(nodeid, protocol.name_at(request, size), caller(served, request, unique)).ino)
    return protocol.error(unique, 0)


def rename(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A name moves."""
    (target,) = protocol.unpack(_RENAME, request, size)
    old, new = protocol.names_at(request, size, _AT + _RENAME.size)
    _rename(served, view, nodeid, old, target, new, 0, caller(served, request, unique))
    return protocol.error(unique, 0)


def rename2(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A name moves, with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT."""
    target, flags, _ = protocol.unpack(_RENAME2, request, size)
    old, new = protocol.names_at(request, size, _AT + _RENAME2.size)
    _rename(served, view, nodeid, old, target, new, flags, caller(served, request, unique))
    return protocol.error(unique, 0)


def _rename(
    served: Served, view: View, parent: int, old: bytes, target: int, new: bytes, flags: int, who: Caller
) -> None:
    replaced = view.rename(parent, old, target, new, flags, who)
    if replaced is not None and replaced.is_dir:
        served.removed(replaced.ino)


def create(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A regular file, made and opened; one that is already there is opened, unless O_EXCL."""
    flags, mode, umask, open_flags = protocol.unpack(_CREATE, request, size)
    name = protocol.name_at(request, size, _AT + _CREATE.size)
    who = caller(served, request, unique, umask)
    inode = view.lookup(nodeid, name)
    if inode is None:
        if is_writable(flags):
            return _created(served, unique, view.create(nodeid, name, mode, who), True, served.valid)
        inode = view.mknod(nodeid, name, stat.S_IFREG | (mode & 0o7777), 0, who)
    elif flags & os.O_EXCL:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    elif not stat.S_ISREG(inode.mode) or who.uid not in (served.root, inode.uid):
        # The kernel did not know this name, so it checked no permission on it: ESTALE makes it look again.
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    elif flags & os.O_TRUNC:
        kill = bool(open_flags & protocol.OPEN_KILL_SUIDGID)
        if kill:
            drop_group_bit(served, view, inode.ino, who)
        inode = view.setattr(inode.ino, SetAttr(size=0, kill_priv=kill), who)
    return _open(served, view, unique, inode, flags, who, served.valid)


def _open(served: Served, view: View, unique: int, inode: Inode, flags: int, who: Caller, valid: int) -> bytes:
    writable = is_writable(flags)
    view.opened(inode.ino, writable, who)
    return _created(served, unique, inode, writable, valid)


def _created(served: Served, unique: int, inode: Inode, writable: bool, valid: int) -> bytes:
    served.told(inode.ino)
    served.opened(inode.ino, writable)
    return protocol.created(unique, inode, valid, protocol.FOPEN_KEEP_CACHE)


def hand_out(
    served: Served, view: View, request: bytearray, unique: int, inode: Inode, flags: int, valid: int
) -> bytes:
    """The rest of CREATE and TMPFILE when the file has been made; the name is to be cached for ``valid`` seconds."""
    return _open(served, view, unique, inode, flags, caller(served, request, unique), valid)


def tmpfile(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A regular file without a name, made and opened (O_TMPFILE)."""
    flags, mode, umask, _ = protocol.unpack(_CREATE, request, size)
    who = caller(served, request, unique, umask)
    inode = view.tmpfile(nodeid, stat.S_IFREG | (mode & 0o7777), who)
    return _open(served, view, unique, inode, flags, who, served.valid)


def opendir(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """A directory is opened. One of its open descriptors at a time may use what the kernel keeps of its listing.

    The kernel fills that from any descriptor that may, and goes on in it with any other without a look at whether the
    directory has changed since it was begun: with two at once, one misses names that were there before it was opened.
    """
    if served.may_cache_listing(nodeid):
        return protocol.opened_directory(unique, _CACHING, protocol.FOPEN_KEEP_CACHE | protocol.FOPEN_CACHE_DIR)
    return protocol.opened_directory(unique, 0, protocol.FOPEN_KEEP_CACHE)


def releasedir(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """An open directory is closed."""
    handle, _, _, _ = protocol.unpack(_RELEASE, request, size)
    if handle == _CACHING:
        served.listing_closed(nodeid)
    return protocol.error(unique, 0)


def readdir(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Entries behind a cookie. Nothing is kept between calls, so that each shows the view of its moment."""
    _, cookie, room = protocol.unpack(_READDIR, request, size)
    parts: list[bytes] = [b""]
    used = 0
    try:
        for entry_cookie, name, ino, kind in view.readdir(nodeid, cookie):
            record = protocol.dirent(ino, entry_cookie, name, kind)
            used += len(record)
            if used > room:
                used -= len(record)
                break
            parts.append(record)
    except (OSError, CowfsError):
        if not used:  # else what lies behind the last of these names fails when the kernel asks for it
            raise
    parts[0] = protocol.data_head(unique, used)
    return b"".join(parts)


def readdirplus(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The same with attributes: each entry but ``.`` and ``..`` counts as a lookup."""
    _, cookie, room = protocol.unpack(_READDIR, request, size)
    parts: list[bytes] = [b""]
    told: list[int] = []
    used = 0
    valid, generations = served.valid, served.generations
    try:
        for entry_cookie, name, ino, kind in view.readdir(nodeid, cookie):
            inode = _listed(view, name, ino)
            generation = generations.get(ino, 0) if generations else 0
            record = protocol.direntplus(inode, valid, generation, ino, entry_cookie, name, kind)
            used += len(record)
            if used > room:
                used -= len(record)
                break
            if inode is not None:
                told.append(ino)
            parts.append(record)
    except (OSError, CowfsError):
        if not used:
            raise
    for ino in told:
        served.told(ino)
    parts[0] = protocol.data_head(unique, used)
    served.ahead.listed(nodeid)
    return b"".join(parts)


def _listed(view: View, name: bytes, ino: int) -> Inode | None:
    if name in (b".", b".."):
        return None
    try:
        return view.inode(ino)
    except (OSError, CowfsError):
        return None  # A damaged inode must not hide its neighbours: its own lookup will tell.
