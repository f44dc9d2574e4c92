"""Reading a real directory tree that may change, or be hostile, while it is read.

Every access is relative to the descriptor of an open directory and follows no symbolic link, so that nothing that is
renamed or replaced meanwhile can lead out of the tree. All functions raise plain ``OSError`` for what the source does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from cowfs.geometry import PAGE
from cowfs.tree.content import FileBlock

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_XATTR_PREFIXES = ("user.", "security.", "trusted.")
_XATTR_NAMES = ("system.posix_acl_access", "system.posix_acl_default")


class Changed(OSError):
    """The source is no longer what it was when it was looked at."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "changed while it was read")


def open_root(path: str | bytes) -> int:
    """A descriptor of the directory to import; a symbolic link at the very end of ``path`` is followed."""
    return os.open(path, _DIRECTORY)


def open_directory(parent: int, name: bytes, seen: os.stat_result) -> int:
    """A descriptor of the directory ``name``, if it is still the one that ``seen`` describes."""
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    return _same(fd, (seen.st_dev, seen.st_ino))


def open_parent(child: int, identity: tuple[int, int]) -> int:
    """A descriptor of the parent of an open directory, if it is still the one with this (device, inode)."""
    return _same(os.open("..", _DIRECTORY, dir_fd=child), identity)


def _same(fd: int, identity: tuple[int, int]) -> int:
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) != identity:
        os.close(fd)
        raise Changed
    return fd


def open_file(parent: int, name: bytes) -> int:
    """A descriptor of what should be a regular file, without touching its access time where that is allowed."""
    try:
        return os.open(name, _FILE | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return os.open(name, _FILE, dir_fd=parent)


def list_names(fd: int) -> list[bytes]:
    """The names in an open directory, sorted, without ``.`` and ``..``."""
    return sorted(map(os.fsencode, os.listdir(fd)))


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file kept identity, type, size and both times."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_size == after.st_size
        and before.st_ino == after.st_ino
        and before.st_dev == after.st_dev
        and before.st_mode == after.st_mode
    )


def read_link(parent: int, name: bytes) -> bytes:
    """The target of a symbolic link."""
    return os.readlink(name, dir_fd=parent)


def read_xattrs(fd: int, name: bytes | None = None) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes of an open file (``name`` None), or of an entry in an open directory; sorted by name.

    Only what can be set again on any file: user, security and trusted attributes and POSIX ACLs. One that vanishes
    meanwhile is left out.
    """
    # There is no lgetxattrat before Linux 6.13; through /proc the directory is the open one, whatever its name is now.
    target = fd if name is None else os.fsencode(f"/proc/self/fd/{fd}/") + name
    follow = name is None
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return ()
        raise
    pairs: list[tuple[bytes, bytes]] = []
    for key in names:
        if key.startswith(_XATTR_PREFIXES) or key in _XATTR_NAMES:
            try:
                pairs.append((os.fsencode(key), os.getxattr(target, key, follow_symlinks=follow)))
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise
    pairs.sort()
    return tuple(pairs)


def read_blocks(fd: int, size: int, block_size: int) -> Iterator[FileBlock]:
    """The allocated blocks of an open file of ``size`` bytes, in order.

    A page counts as allocated when any of it is data to ``lseek(SEEK_DATA)``; unwritten (preallocated) space reads
    as a hole. Raises :class:`Changed` when the file has become shorter.
    """
    if size <= 0:
        return
    pending = -1  # the block whose mask is being collected
    mask = 0
    for first, end in _data_pages(fd, size):
        page = first
        while page < end:
            number = page * PAGE // block_size
            if number != pending:
                if mask:
                    yield _read_block(fd, size, block_size, pending, mask)
                pending, mask = number, 0
            start = number * block_size // PAGE
            stop = min(end, start + block_size // PAGE)
            mask |= (1 << stop - start) - (1 << page - start)
            page = stop
    if mask:
        yield _read_block(fd, size, block_size, pending, mask)


def _read_block(fd: int, size: int, block_size: int, number: int, mask: int) -> FileBlock:
    offset = number * block_size
    length = min(block_size, size - offset)
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise Changed
        data += more
    return FileBlock(number, mask, data)


def _data_pages(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Ascending ranges [first, end) of pages that hold data; ranges may touch, and share a page's halves."""
    try:
        if os.lseek(fd, 0, os.SEEK_HOLE) >= size:  # by far the most common: no hole at all
            yield 0, -(-size // PAGE)
            return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENXIO):
            raise
        if error.errno == errno.EINVAL:  # a filesystem that knows no holes
            yield 0, -(-size // PAGE)
            return
        raise Changed from None
    at = done = 0
    with suppress(_EndOfFile):
        while at < size:
            start = _seek(fd, at, os.SEEK_DATA)
            at = min(_seek(fd, start, os.SEEK_HOLE), size)
            first, end = max(start // PAGE, done), -(-at // PAGE)
            if first < end:
                yield first, end
                done = end


class _EndOfFile(Exception):
    pass


def _seek(fd: int, offset: int, whence: int) -> int:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _EndOfFile from None
        raise


def mount_id(parent: int, name: bytes | None = None) -> str:
    """The id of the mount that an open directory, or an entry in it, lies on."""
    fd = parent if name is None else os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            return next((line.split()[1] for line in info if line.startswith("mnt_id:")), "")
    finally:
        if name is not None:
            os.close(fd)


def is_below(fd: int, identities: frozenset[tuple[int, int]]) -> bool:
    """Whether an open directory, or one that it lies in up to ``/``, has one of these (device, inode) pairs."""
    at = os.dup(fd)
    try:
        while True:
            here = os.fstat(at)
            if (here.st_dev, here.st_ino) in identities:
                return True
            try:
                up = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
            except PermissionError:  # no right to look further up
                return False
            os.close(at)
            at = up
            above = os.fstat(at)
            if (above.st_dev, above.st_ino) == (here.st_dev, here.st_ino):
                return False
    finally:
        os.close(at)
