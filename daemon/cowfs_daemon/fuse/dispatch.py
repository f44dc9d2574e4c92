"""From opcode to handler: what answers each request.

A handler is called under the workspace's lock as ``handler(served, view, request, size, unique, nodeid)``
and returns the complete reply: bytes, a pair (header, data) to be written without a copy, or None when
nothing is to be answered (now). It raises OSError or CowfsError for an errno.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from cowfs.view.view import View
from cowfs_daemon.fuse import attributes, data, names, protocol
from cowfs_daemon.fuse.served import Served

Reply = bytes | tuple[bytes, ...] | None
Handler = Callable[[Served, View, bytearray, int, int, int], Reply]


def unsupported(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """ENOSYS: the kernel does it itself, does without, and mostly never asks again."""
    return protocol.error(unique, errno.ENOSYS)


def no_ioctl(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> bytes:
    """No ioctl is known here."""
    return protocol.error(unique, errno.ENOTTY)


def unanswered(served: Served, view: View, request: bytearray, size: int, unique: int, nodeid: int) -> None:
    """INTERRUPT: requests are short, so they finish instead. DESTROY: the end is seen when reading."""


_HANDLERS: dict[int, Handler] = {
    protocol.LOOKUP: names.lookup,
    protocol.FORGET: names.forget,
    protocol.BATCH_FORGET: names.batch_forget,
    protocol.MKNOD: names.mknod,
    protocol.MKDIR: names.mkdir,
    protocol.SYMLINK: names.symlink,
    protocol.LINK: names.link,
    protocol.UNLINK: names.unlink,
    protocol.RMDIR: names.rmdir,
    protocol.RENAME: names.rename,
    protocol.RENAME2: names.rename2,
    protocol.CREATE: names.create,
    protocol.TMPFILE: names.tmpfile,
    protocol.OPENDIR: names.opendir,
    protocol.RELEASEDIR: names.releasedir,
    protocol.READDIR: names.readdir,
    protocol.READDIRPLUS: names.readdirplus,
    protocol.GETATTR: attributes.getattr,
    protocol.SETATTR: attributes.setattr,
    protocol.STATX: attributes.statx,
    protocol.STATFS: attributes.statfs,
    protocol.READLINK: attributes.readlink,
    protocol.GETXATTR: attributes.getxattr,
    protocol.SETXATTR: attributes.setxattr,
    protocol.LISTXATTR: attributes.listxattr,
    protocol.REMOVEXATTR: attributes.removexattr,
    protocol.OPEN: data.open_file,
    protocol.RELEASE: data.release,
    protocol.READ: data.read,
    protocol.WRITE: data.write,
    protocol.FALLOCATE: data.fallocate,
    protocol.LSEEK: data.lseek,
    protocol.COPY_FILE_RANGE: data.copy_file_range,
    protocol.COPY_FILE_RANGE_64: data.copy_file_range_64,
    protocol.FSYNC: data.sync,
    protocol.FSYNCDIR: data.sync,
    protocol.SYNCFS: data.sync,
    protocol.IOCTL: no_ioctl,
    protocol.INTERRUPT: unanswered,
    protocol.DESTROY: unanswered,
}

HANDLERS: list[Handler] = [_HANDLERS.get(opcode, unsupported) for opcode in range(protocol.OPCODES)]
"""Indexed by opcode. FLUSH and ACCESS are among the unsupported: they save a round trip each."""
