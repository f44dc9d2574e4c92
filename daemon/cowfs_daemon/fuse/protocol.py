"""The FUSE wire protocol (linux/fuse.h, 7.31 to 7.45): constants, structs, pure encoders and parsers.

Invariants:
- no I/O; every reply built here is complete, header included;
- a request that is shorter than its structs, or whose names do not end in NUL, raises ``Corrupt``,
  never anything else; offsets below are bytes from the start of the request.
"""

from __future__ import annotations

import os
import struct
from typing import Final, Protocol

from cowfs.errors import Corrupt

MAJOR: Final = 7
MINOR: Final = 45
MINOR_MIN: Final = 31

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR = 20, 21, 22, 23, 24, 25, 26, 27
READDIR, RELEASEDIR, FSYNCDIR = 28, 29, 30
ACCESS, CREATE, INTERRUPT, DESTROY, IOCTL = 34, 35, 36, 38, 39
BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 42, 43, 44, 45, 46, 47
SYNCFS, TMPFILE, STATX, COPY_FILE_RANGE_64 = 50, 51, 52, 53
OPCODES: Final = 64
"""Length of a dispatch table; greater opcodes are answered ENOSYS."""

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_DELETE, NOTIFY_RESEND = 2, 3, 6, 7
EXPIRE_ONLY: Final = 1

UNIQUE_RESEND: Final = 1 << 63
"""Set in a request's unique id when the kernel sends it again."""

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = 1, 2, 4, 8, 16, 32
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_CTIME, FATTR_KILL_SUIDGID = 128, 256, 1024, 2048
FOPEN_KEEP_CACHE: Final = 2
FOPEN_CACHE_DIR: Final = 8
FOPEN_PASSTHROUGH: Final = 1 << 7
OPEN_KILL_SUIDGID: Final = 1
WRITE_CACHE, WRITE_KILL_SUIDGID = 1, 4
SETXATTR_ACL_KILL_SGID: Final = 1

FOREVER: Final = 0x7FFFFFFF
"""Seconds: the timeout of entries and attributes, dropped only by notifications."""

BLOCK_SIZE: Final = 4096
"""``st_blksize``: the kernel keeps it as the inode's block size, which must not exceed a page."""

HEADER_BYTES: Final = 40
GIGA: Final = 1_000_000_000
_WRITE_FLAGS_AT: Final = HEADER_BYTES + 20

_HEAD = struct.Struct("<IIQQ")
_CREDENTIALS = struct.Struct("<III")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_U32X2 = struct.Struct("<II")
_OUT = struct.Struct("<IiQ")
_OUT_U32 = struct.Struct("<IiQII")
_OUT_U64 = struct.Struct("<IiQQ")
_ATTR = "QQQqqqIIIIIIIIII"
_OUT_ENTRY = struct.Struct("<IiQQQQQII" + _ATTR)
_OUT_ATTR = struct.Struct("<IiQQII" + _ATTR)
_OUT_OPEN = struct.Struct("<IiQQII")
_OUT_CREATE = struct.Struct("<IiQQQQQII" + _ATTR + "QII")
_OUT_STATFS = struct.Struct("<IiQQQQQQIIII24x")
_STATX = struct.Struct("<IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
_OUT_STATX = struct.Struct("<IiQQII16x")
_DIRENT = struct.Struct("<QQII")
_ENTRY_DIRENT = struct.Struct("<QQQQII" + _ATTR + "QQII")
_PADDING = tuple(bytes(-count % 8) for count in range(8))

STATX_BASIC_AND_BTIME: Final = 0x0FFF

header = _HEAD.unpack_from
"""``(length, opcode, unique, nodeid)`` of a request."""

error_reply_head = _OUT.pack


class Attributes(Protocol):
    """What the kernel is told of an inode: times in ns, ``blocks`` in 512-byte units."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    btime: int


def check_header(size: int, length: int) -> None:
    """Refuse a request of ``size`` bytes whose header claims another ``length``."""
    if size < HEADER_BYTES or length != size:
        raise Corrupt(f"FUSE request: {size} bytes read, {length} claimed")


def unpack(layout: struct.Struct, request: bytearray, size: int, at: int = HEADER_BYTES) -> tuple[int, ...]:
    """The fields of ``layout`` at ``at``. Raises :class:`Corrupt` when they reach past ``size``."""
    if at + layout.size > size:
        raise Corrupt("FUSE request: too short")
    return layout.unpack_from(request, at)


def credentials(request: bytearray) -> tuple[int, ...]:
    """``(uid, gid, pid)`` of a request whose header was checked."""
    return _CREDENTIALS.unpack_from(request, 24)


def interrupted(request: bytearray, size: int) -> int:
    """The unique id that an INTERRUPT request is about; 0 when it is too short."""
    return int(_U64.unpack_from(request, HEADER_BYTES)[0]) if size >= HEADER_BYTES + 8 else 0


def is_cached_write(request: bytearray, size: int) -> bool:
    """Whether a WRITE request brings pages that were dirtied through a mapping."""
    return size >= _WRITE_FLAGS_AT + 4 and bool(_U32.unpack_from(request, _WRITE_FLAGS_AT)[0] & WRITE_CACHE)


def truncates(request: bytearray, size: int) -> bool:
    """Whether an OPEN request empties the file."""
    return size >= HEADER_BYTES + 4 and bool(_U32.unpack_from(request, HEADER_BYTES)[0] & os.O_TRUNC)


def name_at(request: bytearray, size: int, at: int = HEADER_BYTES) -> bytes:
    """The one NUL-terminated string that fills the request from ``at`` on."""
    end = request.find(0, at, size)
    if end < 0 or end + 1 != size:
        raise Corrupt("FUSE request: a name is not terminated")
    return bytes(request[at:end])


def names_at(request: bytearray, size: int, at: int = HEADER_BYTES) -> tuple[bytes, bytes]:
    """The two NUL-terminated strings that fill the request from ``at`` on."""
    end = request.find(0, at, size)
    if end < 0:
        raise Corrupt("FUSE request: a name is not terminated")
    return bytes(request[at:end]), name_at(request, size, end + 1)


def error(unique: int, number: int) -> bytes:
    """An error reply; ``number`` is a positive errno, or 0 for success without a body."""
    return _OUT.pack(16, -number, unique)


def data_head(unique: int, length: int) -> bytes:
    """The header of a reply whose body has ``length`` bytes."""
    return _OUT.pack(16 + length, 0, unique)


def data(unique: int, body: bytes) -> bytes:
    """A reply with a body."""
    return _OUT.pack(16 + len(body), 0, unique) + body


def entry(unique: int, inode: Attributes, valid: int, generation: int = 0) -> bytes:
    """A fuse_entry_out reply; ``valid`` seconds for both the name and the attributes.

    A kernel that knows the inode by another ``generation`` gives that one up (it gets EIO) and takes a new one.
    """
    ino, atime, mtime, ctime = inode.ino, inode.atime, inode.mtime, inode.ctime
    return _OUT_ENTRY.pack(
        144, 0, unique, ino, generation, valid, valid, 0, 0,
        ino, inode.size, inode.blocks, atime // GIGA, mtime // GIGA, ctime // GIGA,
        atime % GIGA, mtime % GIGA, ctime % GIGA,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, BLOCK_SIZE, 0,
    )  # fmt: skip


def negative_entry(unique: int, valid: int) -> bytes:
    """A fuse_entry_out that says "no such name", to be remembered for ``valid`` seconds."""
    return _OUT_ENTRY.pack(144, 0, unique, 0, 0, valid, *_NO_ENTRY)


_NO_ENTRY = (0,) * 19


def attributes(unique: int, inode: Attributes) -> bytes:
    """A fuse_attr_out reply without an expiry."""
    atime, mtime, ctime = inode.atime, inode.mtime, inode.ctime
    return _OUT_ATTR.pack(
        120, 0, unique, FOREVER, 0, 0,
        inode.ino, inode.size, inode.blocks, atime // GIGA, mtime // GIGA, ctime // GIGA,
        atime % GIGA, mtime % GIGA, ctime % GIGA,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, BLOCK_SIZE, 0,
    )  # fmt: skip


def opened(unique: int, flags: int) -> bytes:
    """A fuse_open_out reply. File handles are 0: requests carry the inode number and the open flags."""
    return _OUT_OPEN.pack(32, 0, unique, 0, flags, 0)


def opened_backed(unique: int, backing: int) -> bytes:
    """The same for a file that the kernel reads by itself, from what was registered as ``backing``."""
    return _OUT_OPEN.pack(32, 0, unique, 0, FOPEN_PASSTHROUGH, backing)


def opened_directory(unique: int, handle: int, flags: int) -> bytes:
    """The same for OPENDIR: ``handle`` comes back in RELEASEDIR."""
    return _OUT_OPEN.pack(32, 0, unique, handle, flags, 0)


def created(unique: int, inode: Attributes, valid: int, flags: int) -> bytes:
    """The reply to CREATE and TMPFILE: fuse_entry_out, then fuse_open_out."""
    ino, atime, mtime, ctime = inode.ino, inode.atime, inode.mtime, inode.ctime
    return _OUT_CREATE.pack(
        160, 0, unique, ino, 0, valid, valid, 0, 0,
        ino, inode.size, inode.blocks, atime // GIGA, mtime // GIGA, ctime // GIGA,
        atime % GIGA, mtime % GIGA, ctime % GIGA,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, BLOCK_SIZE, 0,
        0, flags, 0,
    )  # fmt: skip


def statx(unique: int, inode: Attributes) -> bytes:
    """A fuse_statx_out reply: the basic fields and the time of birth."""
    times: list[int] = []
    for ns in (inode.atime, inode.btime, inode.ctime, inode.mtime):
        times += (ns // GIGA, ns % GIGA, 0)
    body = _STATX.pack(
        STATX_BASIC_AND_BTIME, BLOCK_SIZE, 0, inode.nlink, inode.uid, inode.gid, inode.mode, 0,
        inode.ino, inode.size, inode.blocks, 0, *times,
        (inode.rdev >> 8) & 0xFFF, (inode.rdev & 0xFF) | ((inode.rdev >> 12) & 0xFFF00), 0, 0,
    )  # fmt: skip
    return _OUT_STATX.pack(_OUT_STATX.size + _STATX.size, 0, unique, FOREVER, 0, 0) + body


def statfs(unique: int, block_size: int, blocks: int, blocks_free: int, files: int, files_free: int) -> bytes:
    """A fuse_statfs_out reply; block counts in units of ``block_size`` bytes."""
    return _OUT_STATFS.pack(
        96, 0, unique, blocks, blocks_free, blocks_free, files, files_free, block_size, 255, block_size, 0
    )


def counted(unique: int, count: int) -> bytes:
    """The reply to WRITE, COPY_FILE_RANGE and size queries of xattrs: u32 count, u32 zero."""
    return _OUT_U32.pack(24, 0, unique, count, 0)


def positioned(unique: int, value: int) -> bytes:
    """The reply to LSEEK and COPY_FILE_RANGE_64: one u64."""
    return _OUT_U64.pack(24, 0, unique, value)


def dirent(ino: int, cookie: int, name: bytes, kind: int) -> bytes:
    """One READDIR record; ``cookie`` is where the next READDIR goes on."""
    length = len(name)
    return _DIRENT.pack(ino, cookie, length, kind) + name + _PADDING[length & 7]


def direntplus(
    inode: Attributes | None, valid: int, generation: int, ino: int, cookie: int, name: bytes, kind: int
) -> bytes:
    """One READDIRPLUS record: a fuse_entry_out and a :func:`dirent`; None: the kernel shall look it up if it cares."""
    if inode is None:
        return NO_ATTRIBUTES + dirent(ino, cookie, name, kind)
    atime, mtime, ctime = inode.atime, inode.mtime, inode.ctime
    length = len(name)
    return _ENTRY_DIRENT.pack(
        ino, generation, valid, valid, 0, 0,
        ino, inode.size, inode.blocks, atime // GIGA, mtime // GIGA, ctime // GIGA,
        atime % GIGA, mtime % GIGA, ctime % GIGA,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, BLOCK_SIZE, 0,
        ino, cookie, length, kind,
    ) + name + _PADDING[length & 7]  # fmt: skip


NO_ATTRIBUTES = bytes(_ENTRY_DIRENT.size - _DIRENT.size)
"""The fuse_entry_out of a name that the kernel shall look up if it cares."""


def invalidate_inode(ino: int) -> bytes:
    """A notification: drop the attributes, ACLs and every page of ``ino``."""
    return _INVAL_INODE.pack(40, NOTIFY_INVAL_INODE, 0, ino, 0, 0)


_INVAL_INODE = struct.Struct("<IiQQqq")


def expire_entry(parent: int, name: bytes) -> bytes:
    """A notification: look ``name`` in ``parent`` up again before it is used (mounts on it stay)."""
    return _INVAL_ENTRY.pack(33 + len(name), NOTIFY_INVAL_ENTRY, 0, parent, len(name), EXPIRE_ONLY) + name + b"\0"


_INVAL_ENTRY = struct.Struct("<IiQQII")


def invalidate_entry(parent: int, name: bytes) -> bytes:
    """A notification: forget ``name`` in ``parent`` now (what is mounted on it, or below it, is detached)."""
    return _INVAL_ENTRY.pack(33 + len(name), NOTIFY_INVAL_ENTRY, 0, parent, len(name), 0) + name + b"\0"


def delete(parent: int, ino: int, name: bytes) -> bytes:
    """A notification: ``name`` in ``parent``, if it is ``ino``, was removed; who watches that inode is told."""
    return _DELETE.pack(41 + len(name), NOTIFY_DELETE, 0, parent, ino, len(name), 0) + name + b"\0"


_DELETE = struct.Struct("<IiQQQII")


def resend() -> bytes:
    """A notification: send every request again that was read but not answered."""
    return _OUT.pack(16, NOTIFY_RESEND, 0)
