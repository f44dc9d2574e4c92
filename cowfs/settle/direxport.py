"""Export: a root -> a new directory, with everything that its filesystem can keep.

The tree is put together under another name, closed to everybody else, and gets its own name at the end. One directory
is open at a time, and the way up is ``..``, so that no depth is too deep. What a directory is itself is set when
everything in it is there, or its default access list would be inherited and its time change.

Files with more than one name are made in a directory of their own and linked from there: it is gone at the end.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from cowfs.blocks.api import BlockSource
from cowfs.errors import Conflict
from cowfs.formats.inode import Dirent, InodeRecord
from cowfs.geometry import PAGE, ROOT_INO
from cowfs.settle.readtree import StoredTree
from cowfs.settle.scan import open_parent
from cowfs.tree.content import read_blocks, read_symlink, record_xattrs

ROOM_BYTES = 1 << 20
"""With so much free, ENOSPC for an attribute means that the filesystem has no room for attributes of that size."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT = (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL)  # what the filesystem does not have, or this user may not
_CANNOT_LINK = (*_CANNOT, errno.EMLINK)
_CANNOT_KEEP = (*_CANNOT, errno.E2BIG, errno.ERANGE)
_SET_ID = stat.S_ISUID | stat.S_ISGID
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")

Progress = Callable[[int, int], None]
Skip = Callable[[bytes, str], None]


def export_directory(blocks: BlockSource, root: bytes, target: bytes, progress: Progress, skip: Skip) -> None:
    """Make the directory ``target`` from ``root``. ``skip(path, reason)`` is called for what cannot be kept there.

    Raises Conflict (it exists), Corrupt, OSError; then nothing stays.
    """
    above, name = os.path.split(target)
    parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    made: list[bytes] = []
    try:
        for _ in range(2):
            made.append(os.path.basename(tempfile.mkdtemp(prefix=b".cowfs-", dir=above)))
        stage, links = made
        export = _Export(StoredTree(blocks, root), progress)
        export.run(parent, stage, links)
        try:
            os.rename(stage, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise Conflict(f"{os.fsdecode(target)} exists already", hint="Choose another name.") from None
            raise
        for reason, path in export.problems.items():
            more = export.counts[reason] - 1
            skip(path, f"{reason} (and {more} more)" if more else reason)
    finally:
        for each in made:
            with suppress(FileNotFoundError):
                remove_tree(parent, each)
        os.close(parent)


class _Frame(NamedTuple):
    """A directory that is being filled; ``identity``: device and inode of the one made for it."""

    path: bytes
    record: InodeRecord
    left: Iterator[tuple[bytes, Dirent]]
    identity: tuple[int, int]


class _Export:
    def __init__(self, tree: StoredTree, progress: Progress) -> None:
        self._tree = tree
        self._progress = progress
        self._links = -1
        self._linked: set[int] = set()
        self._files = self._written = 0
        self.problems: dict[str, bytes] = {}  # reason -> the first path
        self.counts: Counter[str] = Counter()

    def run(self, parent: int, stage: bytes, links: bytes) -> None:
        self._links = os.open(links, _DIRECTORY, dir_fd=parent)
        at = -1
        try:
            at = os.open(stage, _DIRECTORY, dir_fd=parent)
            for key in _ACLS:  # those that the directory above hands down
                with suppress(OSError):
                    os.removexattr(at, key)
                    os.removexattr(self._links, key)
            frames = [self._frame(at, b"", ROOT_INO)]
            while frames:
                frame = frames[-1]
                name, entry = next(frame.left, (b"", None))
                if entry is None:
                    frames.pop()
                    above = open_parent(at, frames[-1].identity) if frames else -1
                    self._attributes(at, None, frame.record, frame.path)
                    os.close(at)
                    at = above
                    continue
                path = frame.path + b"/" + name if frame.path else name
                if entry.kind == stat.S_IFDIR >> 12:
                    os.mkdir(name, 0o700, dir_fd=at)
                    below = os.open(name, _DIRECTORY, dir_fd=at)
                    os.close(at)
                    at = below
                    frames.append(self._frame(at, path, entry.ino))
                else:
                    self._entry(at, name, path, entry.ino)
                self._files += 1
                if not self._files % 256:
                    self._progress(self._files, self._written)
        finally:
            for fd in (at, self._links):
                if fd >= 0:
                    os.close(fd)
        self._progress(self._files, self._written)

    def _frame(self, fd: int, path: bytes, ino: int) -> _Frame:
        made, record = os.fstat(fd), self._tree.inode(ino)
        return _Frame(path, record, iter(self._tree.entries(record)), (made.st_dev, made.st_ino))

    def _cannot(self, path: bytes, reason: str) -> None:
        self.problems.setdefault(reason, path)
        self.counts[reason] += 1

    def _entry(self, at: int, name: bytes, path: bytes, ino: int) -> None:
        """Everything but a directory."""
        record = self._tree.inode(ino)
        if record.nlink < 2:
            self._make(at, name, record, path)
            return
        number = b"%d" % ino
        if ino not in self._linked:
            if not self._make(self._links, number, record, path):
                return
            self._linked.add(ino)
        try:
            os.link(number, name, src_dir_fd=self._links, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            self._cannot(path, "cannot be another name of a file here: it is a copy")
            self._make(at, name, record, path)

    def _make(self, at: int, name: bytes, record: InodeRecord, path: bytes) -> bool:
        """Make an inode; False: it cannot be here."""
        kind = stat.S_IFMT(record.mode)
        if kind == stat.S_IFREG:
            fd = os.open(name, _NEW, 0o600, dir_fd=at)
            try:
                self._data(fd, record)
                self._attributes(fd, None, record, path)
            finally:
                os.close(fd)
            return True
        try:
            if kind == stat.S_IFLNK:
                os.symlink(read_symlink(self._tree.blocks, record.content), name, dir_fd=at)
            else:
                os.mknod(name, kind | 0o600, record.rdev, dir_fd=at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            what = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
            self._cannot(path, f"{what.get(kind, 'a device')} cannot be made here: it is left out")
            return False
        self._attributes(at, name, record, path)
        return True

    def _data(self, fd: int, record: InodeRecord) -> None:
        """Write the allocated pages of a file."""
        block = 1 << record.block_log2
        os.ftruncate(fd, record.size)
        for each in read_blocks(self._tree.blocks, record.content, record.size, block):
            page, mask = 0, each.mask
            while mask >> page:
                if mask >> page & 1:
                    end = page
                    while mask >> end & 1:
                        end += 1
                    _write(fd, memoryview(each.data)[page * PAGE : end * PAGE], each.number * block + page * PAGE)
                    page = end
                page += 1
        self._written += record.size

    def _attributes(self, at: int, name: bytes | None, record: InodeRecord, path: bytes) -> None:
        """What an inode is: ``at`` itself, or ``name`` in it. The owner first, which takes set-id bits and capabilities
        away; the time last."""
        mode = stat.S_IMODE(record.mode)
        try:
            if name is None:
                os.chown(at, record.uid, record.gid)
            else:
                os.chown(name, record.uid, record.gid, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._cannot(path, "its owner cannot be kept here, nor set-id bits")
            mode &= ~_SET_ID
        place = at if name is None else b"/proc/self/fd/%d/%b" % (at, name)
        for key, value in record_xattrs(self._tree.blocks, record):
            try:
                os.setxattr(place, key, value, follow_symlinks=name is None)
            except OSError as error:
                full = error.errno == errno.ENOSPC and _free(at) < ROOM_BYTES
                if full or error.errno not in (*_CANNOT_KEEP, errno.ENOSPC):
                    raise
                self._cannot(path, f"the extended attribute {os.fsdecode(key)} cannot be kept here")
        times = (record.atime, record.mtime)
        if name is None:
            os.chmod(at, mode)
            os.utime(at, ns=times)
        else:
            if not stat.S_ISLNK(record.mode):
                os.chmod(name, mode, dir_fd=at)
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _free(fd: int) -> int:
    now = os.fstatvfs(fd)
    return now.f_bavail * now.f_frsize


def remove_tree(parent: int, name: bytes) -> None:
    """Remove a directory of our own in an open one, and everything in it, however deep. Raises OSError."""
    at = _own(parent, name)
    frames = [(name, _remove_files(at), os.fstat(at))]
    try:
        while True:
            here, left, _ = frames[-1]
            if left:
                below = _own(at, left[-1])
                frames.append((left.pop(), _remove_files(below), os.fstat(below)))
                os.close(at)
                at = below
                continue
            frames.pop()
            if not frames:
                break
            above = open_parent(at, (frames[-1][2].st_dev, frames[-1][2].st_ino))
            os.close(at)
            at = above
            os.rmdir(here, dir_fd=at)
    finally:
        os.close(at)
    os.rmdir(name, dir_fd=parent)


def _own(parent: int, name: bytes) -> int:
    """Open a directory of our own, whatever its mode has become."""
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _remove_files(fd: int) -> list[bytes]:
    """Remove what is no directory; the names of those that are."""
    with os.scandir(fd) as found:
        entries = [(os.fsencode(each.name), each.is_dir(follow_symlinks=False)) for each in found]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in entries if is_directory]
