"""System calls that ``os`` lacks or hides the errno of. Every function raises OSError with the errno."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_c, _i, _l, _u = ctypes.c_char_p, ctypes.c_int, ctypes.c_int64, ctypes.c_uint
_libc.fallocate.argtypes = [_i, _i, _l, _l]
_libc.renameat2.argtypes = [_i, _c, _i, _c, _u]
_libc.linkat.argtypes = [_i, _c, _i, _c, _i]
_libc.utimensat.argtypes = [_i, _c, ctypes.c_void_p, _i]
_libc.statx.argtypes = [_i, _c, _i, _u, ctypes.c_void_p]
_libc.name_to_handle_at.argtypes = [_i, _c, ctypes.c_void_p, ctypes.POINTER(_i), _i]
_libc.open_by_handle_at.argtypes = [_i, ctypes.c_void_p, _i]
_libc.inotify_add_watch.argtypes = [_i, _c, ctypes.c_uint32]
_libc.sync_file_range.argtypes = [_i, _l, _l, _u]
_libc.syncfs.argtypes = [_i]
_libc.llistxattr.argtypes, _libc.llistxattr.restype = [_c, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_ssize_t
_libc.fdopendir.restype = ctypes.c_void_p
_libc.readdir.argtypes, _libc.readdir.restype = [ctypes.c_void_p], ctypes.c_void_p
_libc.telldir.argtypes, _libc.telldir.restype = [ctypes.c_void_p], ctypes.c_long
_libc.seekdir.argtypes, _libc.closedir.argtypes = [ctypes.c_void_p, ctypes.c_long], [ctypes.c_void_p]
_libc.rewinddir.argtypes = [ctypes.c_void_p]

HERE = -100
SYMLINK_NOFOLLOW, EACCESS, SYMLINK_FOLLOW, EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
"""In place of nanoseconds: utimensat sets the current time, or leaves the time alone."""
FICLONE = 0x40049409
NO_DUMP = 0x40
_GETFLAGS, _SETFLAGS, _FIEMAP = 0x80086601, 0x40086602, 0xC020660B
_FACCESSAT2, _FCHMODAT2 = 439, 452
_PR_SET_DUMPABLE = 4


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _check(_libc.fallocate(fd, mode, offset, length))


def rename(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    _check(_libc.renameat2(HERE, old, HERE, new, flags))


def listxattr_size(path: bytes) -> int:
    """What llistxattr(2) asks for room."""
    return _check(_libc.llistxattr(path, None, 0))


def linkat(at: int, old: bytes, new: bytes, flags: int) -> None:
    """linkat(2); ``old`` seen from the descriptor ``at``."""
    _check(_libc.linkat(at, old, HERE, new, flags))


def faccess(path: bytes, mode: int, flags: int) -> None:
    """faccessat2(2)."""
    _check(_libc.syscall(_FACCESSAT2, HERE, path, mode, flags))


def fchmodat(path: bytes, mode: int, flags: int) -> None:
    """fchmodat2(2)."""
    _check(_libc.syscall(_FCHMODAT2, HERE, path, mode, flags))


Stamp = tuple[int, int]
"""(seconds, nanoseconds or :data:`NOW` or :data:`OMIT`)"""


def utimens(path: bytes, times: tuple[Stamp, Stamp] | None, flags: int) -> None:
    """utimensat(2); ``times``: of access and of change, None: both now."""
    buffer = None if times is None else ctypes.create_string_buffer(struct.pack("<qqqq", *times[0], *times[1]))
    _check(_libc.utimensat(HERE, path, buffer, flags))


class Statx(NamedTuple):
    """What statx(2) says; times in ns, ``btime`` None when it is not known."""

    mask: int
    mode: int
    nlink: int
    uid: int
    gid: int
    ino: int
    size: int
    blocks: int
    block_size: int
    attributes: int
    atime: int
    btime: int | None
    ctime: int
    mtime: int
    rdev: tuple[int, int]


_STATX = struct.Struct("<IIQIIIHxxQQQQ" + "qIxxxx" * 4 + "IIII")
_BTIME = 0x800


def statx(path: bytes, at: int = HERE, flags: int = SYMLINK_NOFOLLOW, mask: int = 0xFFF) -> Statx:
    """statx(2)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statx(at, path, flags, mask, buffer))
    (
        got, block_size, attributes, nlink, uid, gid, mode, ino, size, blocks, _, *times, major, minor, _, _,
    ) = _STATX.unpack_from(buffer)  # fmt: skip
    atime, btime, ctime, mtime = (times[at] * 10**9 + times[at + 1] for at in (0, 2, 4, 6))
    born = btime if got & _BTIME else None
    return Statx(
        got, mode, nlink, uid, gid, ino, size, blocks, block_size, attributes, atime, born, ctime, mtime, (major, minor)
    )


def name_to_handle(path: bytes, flags: int = 0) -> bytes:
    """name_to_handle_at(2): the handle as the kernel's struct."""
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
    _check(_libc.name_to_handle_at(HERE, path, buffer, ctypes.byref(ctypes.c_int()), flags))
    return buffer.raw


def open_by_handle(mount: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2)."""
    return _check(_libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle), flags))


def watch(path: bytes, mask: int) -> int:
    """An inotify descriptor that watches ``path``."""
    fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _check(_libc.inotify_add_watch(fd, path, mask))
    except BaseException:
        os.close(fd)
        raise
    return fd


def events(fd: int) -> list[tuple[int, str]]:
    """(mask, name) of everything that an inotify descriptor has to tell."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        _, mask, _, length = struct.unpack_from("<iIII", data, at)
        found.append((mask, data[at + 16 : at + 16 + length].rstrip(b"\0").decode()))
        at += 16 + length
    return found


def get_flags(fd: int) -> int:
    """FS_IOC_GETFLAGS."""
    buffer = bytearray(8)
    fcntl.ioctl(fd, _GETFLAGS, buffer)
    return int.from_bytes(buffer[:4], "little")


def set_flags(fd: int, flags: int) -> None:
    """FS_IOC_SETFLAGS."""
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("<Q", flags))


def extents(fd: int) -> int:
    """FS_IOC_FIEMAP: how many extents the file has, after it was synced."""
    buffer = bytearray(struct.pack("<QQIIII", 0, (1 << 64) - 1, 1, 0, 0, 0))
    fcntl.ioctl(fd, _FIEMAP, buffer)
    return int(struct.unpack_from("<QQII", buffer)[3])


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    _check(_libc.syncfs(fd))


def stay_dumpable() -> None:
    """After a change of user: keep one's own /proc/self."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


class Listing:
    """An open directory as the C library reads it."""

    def __init__(self, path: bytes) -> None:
        self._stream = _libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        if not self._stream:
            _check(-1)

    def next(self) -> bytes | None:
        """The next name, None at the end."""
        entry = _libc.readdir(self._stream)
        return None if not entry else ctypes.string_at(entry + 19)

    def rest(self) -> Iterator[bytes]:
        """All names to come."""
        while (name := self.next()) is not None:
            yield name

    def tell(self) -> int:
        """telldir(3)."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """seekdir(3)."""
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        """rewinddir(3)."""
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        """closedir(3)."""
        _libc.closedir(self._stream)


@contextlib.contextmanager
def listing(path: bytes) -> Iterator[Listing]:
    """A :class:`Listing` that gets closed."""
    opened = Listing(path)
    try:
        yield opened
    finally:
        opened.close()
