"""Requests and replies between an ordinary user's ids, which the kernel speaks of, and the stored ones.

Only mounts without root are translated. It is done to the bytes as they come and go, once each, so that handlers know
stored ids alone and mounts of root pay nothing.
"""

from __future__ import annotations

import struct

from cowfs.owners import Owners
from cowfs_daemon.fuse import protocol

_IDS = struct.Struct("<II")
_U32 = struct.Struct("<I")
_CALLER_AT = 24
_SETATTR_IDS_AT = protocol.HEADER_BYTES + 76
_REPLY_HEADER = 16
_ATTRIBUTES = 68
"""Where the ids are in a struct fuse_attr."""

_ENTRY, _ENTRY_HEAD = 128, 40
_DIRENT, _NAME_LENGTH_AT = 24, 16
_AT = {
    **dict.fromkeys(
        (
            protocol.LOOKUP, protocol.MKNOD, protocol.MKDIR, protocol.SYMLINK, protocol.LINK, protocol.CREATE,
            protocol.TMPFILE,
        ),
        _REPLY_HEADER + _ENTRY_HEAD + _ATTRIBUTES,
    ),
    **dict.fromkeys((protocol.GETATTR, protocol.SETATTR), _REPLY_HEADER + 16 + _ATTRIBUTES),
    protocol.STATX: _REPLY_HEADER + 32 + 20,
}  # fmt: skip


def take(owners: Owners, request: bytearray, size: int, setxattr_ext: bool) -> None:
    """Make the ids of a request, which has just been read, the stored ones."""
    if size < protocol.HEADER_BYTES:
        return
    _stored(owners, request, _CALLER_AT)
    opcode = protocol.header(request)[1]
    if opcode == protocol.SETATTR and size >= _SETATTR_IDS_AT + _IDS.size:
        _stored(owners, request, _SETATTR_IDS_AT)
    elif opcode == protocol.SETXATTR:
        name, value_at = _xattr(request, size, protocol.HEADER_BYTES + (16 if setxattr_ext else 8))
        request[value_at:size] = owners.stored_xattr(name, bytes(request[value_at:size]))


def give(owners: Owners, request: bytearray, size: int, opcode: int, reply: bytes) -> bytes | bytearray:
    """The reply to a request that was taken, with ids of the host."""
    at = _AT.get(opcode)
    if at is not None:
        return _show(owners, bytearray(reply), at) if len(reply) >= at + _IDS.size else reply
    if opcode == protocol.READDIRPLUS:
        return _listing(owners, bytearray(reply))
    if opcode == protocol.GETXATTR and len(reply) > _REPLY_HEADER:
        name, _ = _xattr(request, size, protocol.HEADER_BYTES + 8)
        wanted = _U32.unpack_from(request, protocol.HEADER_BYTES)[0]
        if wanted:
            return reply[:_REPLY_HEADER] + owners.shown_xattr(name, reply[_REPLY_HEADER:])
    return reply


def _stored(owners: Owners, request: bytearray, at: int) -> None:
    uid, gid = _IDS.unpack_from(request, at)
    _IDS.pack_into(request, at, owners.users.stored(uid), owners.groups.stored(gid))


def _show(owners: Owners, reply: bytearray, at: int) -> bytearray:
    uid, gid = _IDS.unpack_from(reply, at)
    _IDS.pack_into(reply, at, owners.users.shown(uid), owners.groups.shown(gid))
    return reply


def _listing(owners: Owners, reply: bytearray) -> bytearray:
    at = _REPLY_HEADER
    while at + _ENTRY + _DIRENT <= len(reply):
        if any(reply[at : at + 8]):  # else the kernel is to look it up
            _show(owners, reply, at + _ENTRY_HEAD + _ATTRIBUTES)
        (length,) = _U32.unpack_from(reply, at + _ENTRY + _NAME_LENGTH_AT)
        at += _ENTRY + (_DIRENT + length + 7 & ~7)
    return reply


def _xattr(request: bytearray, size: int, at: int) -> tuple[bytes, int]:
    """The name at ``at`` and where what follows it begins."""
    end = request.find(0, at, size)
    return (bytes(request[at:end]), end + 1) if end >= 0 else (b"", size)
