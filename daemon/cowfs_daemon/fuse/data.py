"""Requests about open files and their bytes."""

from __future__ import annotations

import errno
import os
import struct

from cowfs.errors import Corrupt, CowfsError
from cowfs.view.file import joined
from cowfs.view.inode import SetAttr
from cowfs.view.view import View
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.callers import caller, changing, drop_group_bit
from cowfs_daemon.fuse.served import Served, is_writable

_OPEN = struct.Struct("<II")
_RELEASE = struct.Struct("<QIIQ")
_READ = struct.Struct("<QQI")
_WRITE = struct.Struct("<QQIIQII")
_FALLOCATE = struct.Struct("<QQQII")
_LSEEK = struct.Struct("<QQII")
_COPY = struct.Struct("<QQQQQQQ")
_DATA_AT = protocol.HEADER_BYTES + _WRITE.size
_COPY_MAX = 0x7FFFF000
_PIECES_MAX = 256  # of what one writev takes (IOV_MAX is 1024)


def open_file(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """OPEN is always answered: it counts writers, and carries O_TRUNC."""
    flags, open_flags = protocol.unpack(_OPEN, request, size)
    who = caller(served, request, unique)
    writable = is_writable(flags)
    view.inode(nodeid)
    view.opened(nodeid, writable, who)
    if flags & os.O_TRUNC:
        try:
            kill = bool(open_flags & protocol.OPEN_KILL_SUIDGID)
            if kill:
                drop_group_bit(served, view, nodeid, who)
            view.setattr(nodeid, SetAttr(size=0, kill_priv=kill), who)
        except BaseException:
            view.released(nodeid, writable, who)
            raise
    served.opened(nodeid, writable)
    if served.backing is not None and (number := served.backing.opened(view.inode(nodeid), served.opens[nodeid] - 1)):
        return protocol.opened_backed(unique, number)
    return protocol.opened(unique, protocol.FOPEN_KEEP_CACHE)


def release(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The last descriptor and the last mapping of one open are gone."""
    _, flags, _, _ = protocol.unpack(_RELEASE, request, size)
    writable = is_writable(flags)
    served.released(nodeid, writable)
    if served.backing is not None and nodeid not in served.opens:
        served.backing.released(nodeid)
    try:
        view.released(nodeid, writable, caller(served, request, unique))
    except OSError as error:
        if error.errno != errno.ESTALE:  # The inode went in a restore.
            raise
    return protocol.error(unique, 0)


def read(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> tuple[bytes, ...]:
    """Bytes; fewer than asked for only at the end of the file."""
    _, offset, length = protocol.unpack(_READ, request, size)
    pieces = view.pieces(nodeid, offset, length)
    if len(pieces) > _PIECES_MAX:
        pieces = [joined(pieces)]
    return protocol.data_head(unique, sum(map(len, pieces))), *pieces


def write(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Bytes written by a system call, or pages dirtied through a mapping (WRITE_CACHE)."""
    _, offset, length, write_flags, _, flags, _ = protocol.unpack(_WRITE, request, size)
    if _DATA_AT + length != size:
        raise Corrupt("FUSE WRITE: its data does not fill the request")
    cached = write_flags & protocol.WRITE_CACHE
    if cached and nodeid in served.invalidating:
        served.discarded.add(nodeid)
        return protocol.counted(unique, length)
    append = False
    if nodeid in served.appending and flags & os.O_APPEND and not cached:
        append = True
        if view.inode(nodeid).size != offset:
            served.refresh(nodeid)  # The kernel cached these bytes where it believed the end to be.
    data = memoryview(request)[_DATA_AT:size]
    kill = bool(write_flags & protocol.WRITE_KILL_SUIDGID)
    who = caller(served, request, unique)
    if kill:
        drop_group_bit(served, view, nodeid, who)
    try:
        return protocol.counted(unique, view.write(nodeid, offset, data, who, append=append, kill_priv=kill))
    except (OSError, CowfsError):
        served.unwritten += 1
        raise


def fallocate(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Allocate, or punch a hole."""
    _, offset, length, mode, _ = protocol.unpack(_FALLOCATE, request, size)
    who = changing(served, caller(served, request, unique), view.inode(nodeid))
    drop_group_bit(served, view, nodeid, who)
    view.fallocate(nodeid, mode, offset, length, who)
    return protocol.error(unique, 0)


def lseek(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes | None:
    """SEEK_DATA and SEEK_HOLE. Of a file that is open for writing, mappings may have pages that are not written yet."""
    if nodeid in served.writers and served.flushed != unique and served.flush_first(request[:size], nodeid):
        return None
    _, offset, whence, _ = protocol.unpack(_LSEEK, request, size)
    return protocol.positioned(unique, view.seek(nodeid, offset, whence))


def copy_file_range(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """Copy between files without the bytes passing the kernel; a 32-bit count is answered."""
    return protocol.counted(unique, _copy(served, view, request, size, unique, nodeid))


def copy_file_range_64(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """The same with a 64-bit count."""
    return protocol.positioned(unique, _copy(served, view, request, size, unique, nodeid))


def _copy(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> int:
    _, offset, target, _, target_offset, length, flags = protocol.unpack(_COPY, request, size)
    if flags:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    who = changing(served, caller(served, request, unique), view.inode(target))
    drop_group_bit(served, view, target, who)
    return view.copy_range(nodeid, offset, target, target_offset, min(length, _COPY_MAX), who)


def sync(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> None:
    """fsync, fsyncdir, syncfs: as durable as the journal, answered from the pool."""
    served.sync_later(unique)
