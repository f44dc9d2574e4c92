"""A native directory (or a mount) under the operations of the view, so that anything can be compared with it.

Every inode is held by an O_PATH descriptor, which keeps working when it is renamed or has lost its name; numbers are
given out by the caller (``next_ino``), so that two filesystems can be compared number by number.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


class Attributes(NamedTuple):
    """What ``stat`` says, under the logical inode number."""

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


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Native:
    """The directory ``path`` as a filesystem; needs root for the trusted attributes and owners of the tests."""

    def __init__(self, path: str) -> None:
        self.next_ino = 2
        self._held: dict[int, int] = {1: os.open(path, os.O_PATH | os.O_DIRECTORY)}
        self._numbers = {self._key(os.fstat(self._held[1])): 1}

    def close(self) -> None:
        """Let go of every inode."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    @staticmethod
    def _key(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino

    def _at(self, ino: int) -> int:
        if ino not in self._held:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._held[ino]

    def _path(self, ino: int) -> str:
        return f"/proc/self/fd/{self._at(ino)}"

    def _open(self, ino: int, flags: int) -> int:
        """A working descriptor of an inode; what is no regular file is refused as the view refuses it."""
        mode = self.inode(ino).mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, os.strerror(code))
        return os.open(self._path(ino), flags | os.O_NOATIME)

    def _adopt(self, parent: int, name: bytes) -> Attributes:
        """Hold the inode that a call has just made."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._at(parent))
        return self._hold(descriptor)

    def _hold(self, descriptor: int) -> Attributes:
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        self._held[ino] = descriptor
        self._numbers[self._key(os.fstat(descriptor))] = ino
        return self.inode(ino)

    def drop(self, ino: int) -> None:
        """The caller knows that the inode is gone: let go of it."""
        descriptor = self._held.pop(ino)
        del self._numbers[self._key(os.fstat(descriptor))]
        os.close(descriptor)

    def regain(self, entries: Mapping[int, Mapping[bytes, int]]) -> None:
        """The directory became another state: ``entries`` are its names, by number of the directory.

        What is still there goes on under the descriptor it had; what came back is opened by its name.
        """
        there = {1, *(ino for names in entries.values() for ino in names.values())}
        for ino in self._held.keys() - there:
            os.close(self._held.pop(ino))
        self._numbers = {key: ino for key, ino in self._numbers.items() if ino in self._held}
        waiting = [1]
        while waiting:
            parent = waiting.pop()
            for name, ino in entries.get(parent, {}).items():
                if ino not in self._held:
                    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._at(parent))
                    self._held[ino] = descriptor
                    self._numbers[self._key(os.fstat(descriptor))] = ino
                if ino in entries:
                    waiting.append(ino)

    def inode(self, ino: int) -> Attributes:
        """Attributes. A directory's size and blocks, which differ between filesystems, are given as constants."""
        status = os.fstat(self._at(ino))
        directory = stat.S_ISDIR(status.st_mode)
        return Attributes(
            ino, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_rdev,
            4096 if directory else status.st_size, 8 if directory else status.st_blocks,
            status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip

    def lookup(self, parent: int, name: bytes) -> Attributes | None:
        """The inode of a name, or None."""
        try:
            status = os.stat(name, dir_fd=self._at(parent), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return self.inode(self._numbers[self._key(status)])

    def readlink(self, ino: int) -> bytes:
        """A symlink's target."""
        if not stat.S_ISLNK(self.inode(ino).mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.readlink(b"", dir_fd=self._at(ino))

    def readdir(self, ino: int, cookie: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """(position, name, inode, kind), with "." and ".."."""
        rows = [b".", b".."]
        if self.inode(ino).nlink:
            descriptor = os.open(self._path(ino), os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
            try:
                rows += sorted(os.fsencode(name) for name in os.listdir(descriptor))
            finally:
                os.close(descriptor)
        for position, name in enumerate(rows, 1):
            if position > cookie:
                status = os.stat(name, dir_fd=self._at(ino), follow_symlinks=False)
                child = 1 if (ino, name) == (1, b"..") else self._numbers.get(self._key(status), ino)
                yield position, name, child, status.st_mode >> 12

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Bytes, fewer at the end."""
        descriptor = self._open(ino, os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        descriptor = self._open(ino, os.O_RDONLY)
        try:
            return os.lseek(descriptor, offset, whence)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _as(self, caller: Any) -> Iterator[None]:
        """Run a call with the caller's umask and group; the user stays root, who may do everything."""
        umask, group = os.umask(caller.umask), _libc.setfsgid(caller.gid)
        try:
            yield
        finally:
            os.umask(umask)
            _libc.setfsgid(group)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Any) -> Attributes:
        """A file, fifo, socket or device."""
        with self._as(caller):
            os.mknod(name, mode, rdev, dir_fd=self._at(parent))
        return self._adopt(parent, name)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Any) -> Attributes:
        """A directory."""
        with self._as(caller):
            os.mkdir(name, mode, dir_fd=self._at(parent))
        return self._adopt(parent, name)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Any) -> Attributes:
        """A symbolic link."""
        with self._as(caller):
            os.symlink(target, name, dir_fd=self._at(parent))
        return self._adopt(parent, name)

    def tmpfile(self, parent: int, mode: int, caller: Any) -> Attributes:
        """A file without a name; its descriptor keeps it linkable."""
        with self._as(caller):
            return self._hold(os.open(self._path(parent), os.O_TMPFILE | os.O_RDWR, mode))

    def link(self, ino: int, parent: int, name: bytes, caller: Any) -> Attributes:
        """One more name."""
        os.link(self._path(ino), name, dst_dir_fd=self._at(parent), follow_symlinks=True)
        return self.inode(ino)

    def unlink(self, parent: int, name: bytes, caller: Any) -> None:
        """Remove a name."""
        os.unlink(name, dir_fd=self._at(parent))

    def rmdir(self, parent: int, name: bytes, caller: Any) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=self._at(parent))

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Any) -> None:
        """renameat2(2)."""
        with self._as(caller):
            _check(_libc.renameat2(self._at(parent), name, self._at(new_parent), new_name, flags))
        if flags & 4 and self._key(os.stat(name, dir_fd=self._at(parent), follow_symlinks=False)) not in self._numbers:
            self._adopt(parent, name)

    def setattr(self, ino: int, changes: Any, caller: Any) -> Attributes:
        """The system calls that amount to the changes; times come in pairs."""
        path = self._path(ino)
        if changes.size is not None:
            descriptor = self._open(ino, os.O_RDWR)
            try:
                os.ftruncate(descriptor, changes.size)
            finally:
                os.close(descriptor)
        if changes.uid is not None or changes.gid is not None:
            os.chown(path, -1 if changes.uid is None else changes.uid, -1 if changes.gid is None else changes.gid)
        if changes.mode is not None:
            os.chmod(path, changes.mode)
        if changes.atime is not None:
            os.utime(path, ns=(changes.atime, changes.mtime))
        return self.inode(ino)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """An attribute's value."""
        return os.getxattr(self._path(ino), name)

    def listxattr(self, ino: int) -> list[bytes]:
        """The attributes' names."""
        return sorted(os.fsencode(name) for name in os.listxattr(self._path(ino)))

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Any) -> None:
        """Set an attribute."""
        os.setxattr(self._path(ino), name, value, flags)

    def removexattr(self, ino: int, name: bytes, caller: Any) -> None:
        """Remove an attribute."""
        os.removexattr(self._path(ino), name)

    def write(
        self, ino: int, offset: int, data: bytes, caller: Any, *, append: bool = False, kill_priv: bool = False
    ) -> int:
        """Write bytes in one call."""
        descriptor = self._open(ino, os.O_RDWR | (os.O_APPEND if append else 0))
        try:
            return os.write(descriptor, data) if append else os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def fallocate(self, ino: int, mode: int, offset: int, length: int, caller: Any) -> None:
        """fallocate(2)."""
        descriptor = self._open(ino, os.O_RDWR)
        try:
            _check(_libc.fallocate(descriptor, mode, offset, length))
        finally:
            os.close(descriptor)

    def copy_range(self, source: int, source_offset: int, ino: int, offset: int, length: int, caller: Any) -> int:
        """copy_file_range(2)."""
        first = self._open(ino, os.O_RDWR)
        try:
            second = self._open(source, os.O_RDONLY)
            try:
                return os.copy_file_range(second, first, length, source_offset, offset)
            finally:
                os.close(second)
        finally:
            os.close(first)

    def opened(self, ino: int, writable: bool, caller: Any) -> None:
        """Nothing to do: every inode is held."""

    def released(self, ino: int, writable: bool, caller: Any) -> None:
        """Nothing to do: the caller drops what is gone."""
