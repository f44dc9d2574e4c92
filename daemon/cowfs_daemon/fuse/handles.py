"""Files of a mount by inode number, whatever their names: for flushing, and to make the kernel ask for sizes.

Used by threads that serve no request: what they do here is answered by those that do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from cowfs.geometry import ROOT_INO
from cowfs.view.view import View
from cowfs_daemon.fuse import listing
from cowfs_daemon.fuse.lister import Wanted
from cowfs_daemon.fuse.served import Served

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_WAIT_WRITE_WAIT = 7
_DIRENTPLUS_BYTES = 176  # of a short name
_GONE = (errno.ESTALE, errno.ENOENT, errno.EBADF, errno.ENOTCONN, errno.ECONNABORTED)


class Viewed(Protocol):
    """What names are looked up in."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Covers the view and its swap."""

    @property
    def view(self) -> View:
        """What the mount shows."""


class Handles:
    """Opens inodes through forged file handles, on a descriptor of the mount's root.

    That needs CAP_DAC_READ_SEARCH. ``by_number``: whether it is there; without, inodes are found by a name that they
    have, and can only be looked at.
    ``generations``: inode -> its generation, where that is not 0.
    """

    def __init__(self, workspace: Viewed, generations: Mapping[int, int]) -> None:
        self.by_number = True
        self._workspace = workspace
        self._generations = generations
        self._root = -1
        self._by_fsync = flushes_by_fsync()

    def open_root(self, mountpoint: str) -> None:
        """Take hold of the mount. Raises OSError."""
        self._root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(self.open(ROOT_INO, os.O_PATH))
        except PermissionError:
            self.by_number = False

    def close_root(self) -> None:
        """Let go of it: otherwise it could not be unmounted."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def open(self, ino: int, flags: int) -> int:
        """A descriptor of an inode; only ``by_number``. Raises OSError."""
        generation = self._generations.get(ino, 0)
        handle = listing.handle(ino, generation)
        return listing.checked(_libc.open_by_handle_at(self._root, handle, flags | os.O_CLOEXEC | os.O_NONBLOCK))

    def look(self, ino: int) -> int:
        """A descriptor (O_PATH) of an inode. Raises OSError: FileNotFoundError also for one that is only open."""
        if self.by_number:
            return self.open(ino, os.O_PATH)
        fd = os.open(self._path(ino), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        if os.fstat(fd).st_ino == ino:
            return fd
        os.close(fd)  # renamed meanwhile, or something is mounted in the way
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def wanted(self, directory: int, cookie: int, names: int, done: Callable[[int, int], None]) -> Wanted:
        """What a :class:`.lister.Lister` is asked for about so many names. Raises OSError."""
        path = b"" if self.by_number else self._path(directory)
        generation, size = self._generations.get(directory, 0), names * _DIRENTPLUS_BYTES
        return Wanted(os.dup(self._root), directory, generation, path, cookie, size, done)

    def _path(self, ino: int) -> bytes:
        """One of its paths from the root. Raises OSError when it has none."""
        names: list[bytes] = []
        with self._workspace.lock:
            state = self._workspace.view.state
            while ino != ROOT_INO:
                links = state.inode(ino).links
                if not links:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                ino, name = links[0]
                names.append(name)
        return b"/".join(reversed(names)) or b"."

    def flush(self, fd: int) -> None:
        """Return when pages that a mapping dirtied have been written. Raises OSError."""
        if self._by_fsync:
            os.fsync(fd)
        elif _libc.sync_file_range(fd, 0, 0, _WAIT_WRITE_WAIT):
            number = ctypes.get_errno()
            if number != errno.ESPIPE:  # Neither file nor directory: a pipe, a device; no pages.
                raise OSError(number, os.strerror(number))

    def flush_inode(self, ino: int, served: Served, invalidate: Callable[[int], object]) -> None:
        """The same by inode number. ``invalidate(inode)`` tells the kernel to drop its pages: without the right to open
        files by number, it writes those that are dirty before that, whether that works or not."""
        if not self.by_number:
            before = served.unwritten
            invalidate(ino)
            if served.unwritten != before:
                raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: pages of a mapping could not be written")
            return
        fd = self.open(ino, os.O_RDONLY)
        try:
            self.flush(fd)
        finally:
            os.close(fd)

    def ask_size(self, ino: int) -> None:
        """Make the kernel ask for the attributes: nothing else changes the size it holds. One that is gone is fine."""
        try:
            fd = self.look(ino)
        except OSError as error:
            if error.errno in _GONE or not self.by_number:
                return
            raise
        try:
            with contextlib.suppress(OSError):  # ESTALE: gone in the restore.
                os.fstat(fd)
        finally:
            os.close(fd)


def flushes_by_fsync() -> bool:
    """Whether flushing is done by fsync, as on kernels before 6.16."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(c for c in minor if c.isdigit()) or 0)) < (6, 16)
