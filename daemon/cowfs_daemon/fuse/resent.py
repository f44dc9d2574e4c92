"""Requests that the kernel sends again, because the process that read them died: carried out exactly once.

What the journal knows to be done is answered from there; what was begun is completed; everything else (what only looks,
opening and closing included) is done as if it came for the first time. Names and attributes are handed out uncached:
a restore may lie between the request and its answer.
"""

from __future__ import annotations

import struct

from cowfs.layers.answers import ATTRIBUTES, COUNT, DONE, MADE, Answer
from cowfs.view.view import View
from cowfs_daemon.fuse import attributes, names, protocol
from cowfs_daemon.fuse.served import Served

_CREATE = struct.Struct("<IIII")
_ENTRIES = frozenset((protocol.MKNOD, protocol.MKDIR, protocol.SYMLINK, protocol.LINK))
_CREATED = frozenset((protocol.CREATE, protocol.TMPFILE))
_SUCCESS = frozenset(
    (
        protocol.UNLINK, protocol.RMDIR, protocol.RENAME, protocol.RENAME2, protocol.FALLOCATE, protocol.REMOVEXATTR,
    )
)  # fmt: skip
_COUNTED = frozenset((protocol.WRITE, protocol.COPY_FILE_RANGE))


def answer(
    served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int, opcode: int, known: Answer
) -> bytes | None:
    """The reply to a request of which ``known`` was journaled; None: it is to be carried out.

    Raises OSError as the handlers do: ESTALE when a restore has taken away what it made.
    """
    kind = known.kind
    if kind == MADE and opcode in _ENTRIES:
        inode = view.inode(known.ino)
        served.told(inode.ino)
        return protocol.entry(unique, inode, 0, served.generations.get(inode.ino, 0))
    if kind == MADE and opcode in _CREATED:
        flags, *_ = protocol.unpack(_CREATE, request, size)
        return names.hand_out(served, view, request, unique, view.inode(known.ino), flags, valid=0)
    if kind == DONE and opcode in _SUCCESS:
        return protocol.error(unique, 0)
    if kind == DONE and opcode == protocol.SETXATTR:
        return attributes.finish_setxattr(served, view, request, size, unique, nodeid)
    if kind == ATTRIBUTES and opcode == protocol.SETATTR:
        return protocol.attributes(unique, view.inode(known.ino))
    if kind == COUNT and opcode in _COUNTED:
        return protocol.counted(unique, known.size)
    if kind == COUNT and opcode == protocol.COPY_FILE_RANGE_64:
        return protocol.positioned(unique, known.size)
    return None
