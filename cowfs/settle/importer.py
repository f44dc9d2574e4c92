"""Import: a real directory tree -> blocks and a root.

What is taken: regular files with their holes, symbolic links, directories, hard links within the tree, fifos, sockets,
devices; mode, owner, mtime in ns, extended attributes with POSIX ACLs. Access, change and birth times become the
modification time and link counts are those of the imported tree, so that equal trees give equal roots.

What the source does meanwhile is reported, not fatal: what vanishes or cannot be read is left out (a directory that
cannot be listed stays, empty), and a file that changes while it is read is read again, :data:`ATTEMPTS` times in all.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cowfs.blocks.api import BlockSink
from cowfs.errors import CowfsError, Invalid, NotFound
from cowfs.formats.inode import (
    EMPTY,
    NAME_MAX,
    XATTRS_MAX,
    Content,
    InodeRecord,
    encode_inode,
    encode_xattrs,
)
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, PAGE, ROOT_INO, Geometry
from cowfs.owners import Owners
from cowfs.settle import scan
from cowfs.settle.exclude import Excludes
from cowfs.settle.numbering import DEFAULT_NUMBERING, Children, numbering
from cowfs.settle.records import Attributes, allocated_pages, encode, store_directory
from cowfs.tree import radix
from cowfs.tree.content import ContentBatch, FileBlock, store_symlink
from cowfs.tree.root import write_root

ATTEMPTS = 3
"""Times that a file is read which changes meanwhile; after the last it is taken as it was read."""

OPEN_DIRECTORIES = 128
"""Directories kept open at most; in a deeper tree the way back up goes through ``..``."""

PROGRESS_FILES = 256
"""Inodes between two progress reports."""

PROGRESS_BYTES = 16 << 20
"""Bytes of file data between two progress reports."""

Progress = Callable[[int, int], None]
"""Called with the inodes and bytes of file data imported so far."""


_Bytes = bytes  # the field below takes the name


@dataclass(frozen=True, slots=True)
class ImportResult:
    """``files``: inodes; ``bytes``: allocated pages of file data; ``logical_bytes``: what all inodes have allocated.

    ``skipped``: (path, reason) of what was left out, or lost attributes. ``changed``: files and directories taken
    while they were changing. Paths are relative to the source.
    """

    root: _Bytes
    files: int
    bytes: int
    logical_bytes: int
    next_ino: int
    skipped: tuple[tuple[_Bytes, str], ...] = ()
    changed: tuple[_Bytes, ...] = ()


def import_directory(
    writer: BlockSink,
    source: str | bytes,
    geometry: Geometry,
    exclude: Iterable[str] = (),
    forbidden: frozenset[tuple[int, int]] = frozenset(),
    progress: Progress | None = None,
    rule: str = DEFAULT_NUMBERING,
    owners: Owners | None = None,
) -> ImportResult:
    """Import the directory ``source``, staying on its filesystem.

    ``owners``: whose ids the host's are.

    ``forbidden``: (device, inode) of directories never entered (the store's own). ``rule``: inode numbering.
    Raises NotFound (no such directory), Invalid (it lies in a forbidden one; a bad pattern), NoSpace (257 names with
    one directory key).
    """
    job = _Import(writer, geometry, Excludes(exclude), forbidden, progress, rule, owners)
    try:
        fd = scan.open_root(source)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{os.fsdecode(source)}: {error.strerror}") from None
    except OSError as error:
        raise Invalid(f"{os.fsdecode(source)}: {error.strerror}") from None
    try:
        inside = scan.is_below(fd, forbidden)
    except OSError:
        inside = True  # somebody moves it about, right now
    if inside:
        os.close(fd)
        raise Invalid(f"{os.fsdecode(source)}: lies in the store itself", hint="import from outside of the store")
    return job.run(fd)


def make_root(writer: BlockSink, geometry: Geometry, mode: int, uid: int, gid: int, time: int) -> bytes:
    """The root of an empty filesystem; ``mode``: permission bits, ``time``: ns since the epoch."""
    record = InodeRecord(
        stat.S_IFDIR | mode & 0o7777, uid, gid, 2, 0, DIRECTORY_SIZE, DIRECTORY_BLOCKS, geometry.block_log2,
        time, time, time, time, (), (), EMPTY,
    )  # fmt: skip
    return write_root(writer, radix.build(writer, [(ROOT_INO, encode_inode(record))], geometry, inline=False))


class _Sink:
    """The writer, whose OSErrors must never be taken for those of the source."""

    def __init__(self, writer: BlockSink) -> None:
        self._writer = writer

    def put(self, raw: bytes) -> bytes:
        try:
            return self._writer.put(raw)
        except OSError as error:
            raise CowfsError(f"blocks cannot be written: {error}") from error

    def put_many(self, raws: Sequence[bytes]) -> list[bytes]:
        try:
            return self._writer.put_many(raws)
        except OSError as error:
            raise CowfsError(f"blocks cannot be written: {error}") from error


class _Node:
    """What is known of an inode whose content is not stored yet."""

    __slots__ = ("ino", "links", "pages", "seen", "size", "xattrs")

    def __init__(
        self, ino: int, seen: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...], link: tuple[int, bytes] | None
    ) -> None:
        self.ino = ino
        self.seen = seen
        self.xattrs = xattrs
        self.links = [link] if link else []
        self.size = seen.st_size
        self.pages = 0


class _Frame:
    """A directory being walked. ``fd`` is -1 while it is closed because the tree is deep."""

    __slots__ = ("children", "entries", "fd", "identity", "names", "node", "prefix", "subdirectories")

    def __init__(self, fd: int, node: _Node, prefix: bytes, names: list[bytes], children: Children) -> None:
        self.fd = fd
        self.identity = (node.seen.st_dev, node.seen.st_ino)
        self.node = node
        self.prefix = prefix  # the relative path with a slash behind it; empty for the root
        self.names = names
        self.children = children
        self.entries: dict[bytes, tuple[int, int]] = {}  # name -> inode, type; in sorted order
        self.subdirectories: list[tuple[bytes, int, os.stat_result]] = []


class _Import:
    def __init__(
        self,
        writer: BlockSink,
        geometry: Geometry,
        excludes: Excludes,
        forbidden: frozenset[tuple[int, int]],
        progress: Progress | None,
        rule: str,
        owners: Owners | None,
    ) -> None:
        self._owners = owners
        self._writer = _Sink(writer)
        self._geometry = geometry
        self._excludes = excludes
        self._forbidden = forbidden
        self._progress = progress
        self._numbers = numbering(rule)
        self._batch: ContentBatch[_Node] = ContentBatch(self._writer, geometry, self._stored)
        self._block_size = 1 << geometry.block_log2
        self._table: dict[int, bytes] = {}
        self._linked: dict[tuple[int, int], _Node] = {}  # inodes with more names in the source
        self._contents: dict[int, Content] = {}  # their content, until all names are known
        self._skipped: list[tuple[bytes, str]] = []
        self._changed: list[bytes] = []
        self._frames: list[_Frame] = []
        self._device = 0
        self._files = self._bytes = self._logical = 0
        self._reported = (0, 0)

    def run(self, fd: int) -> ImportResult:
        """Import what ``fd`` is open on; closes it."""
        seen = os.fstat(fd)
        self._device = seen.st_dev
        try:
            self._enter(fd, _Node(ROOT_INO, seen, self._xattrs(b"", fd), None), b"")
            while self._frames:
                self._step(self._frames[-1])
        finally:
            for frame in self._frames:
                if frame.fd >= 0:
                    os.close(frame.fd)
        self._batch.flush()
        for node in self._linked.values():
            self._record(node, self._contents.pop(node.ino, EMPTY), len(node.links))
        self._report(force=True)
        table = radix.build(self._writer, sorted(self._table.items()), self._geometry, inline=False)
        return ImportResult(
            write_root(self._writer, table), self._files, self._bytes, self._logical, self._numbers.highest + 1,
            tuple(self._skipped), tuple(self._changed),
        )  # fmt: skip

    # -- the walk --

    def _enter(self, fd: int, node: _Node, path: bytes) -> None:
        """Take the entries of an open directory that are no directories, and queue the others."""
        try:
            names = scan.list_names(fd)
        except OSError as error:
            self._skip(path, f"cannot be listed: {error.strerror}")
            names = []
        frame = _Frame(fd, node, path + b"/" if path else b"", names, self._numbers.enter(path))
        self._frames.append(frame)
        for name in names:
            path = frame.prefix + name
            try:
                self._entry(frame, name, path)
            except OSError as error:
                frame.entries.pop(name, None)
                self._skip(path, error.strerror or "cannot be read")
        frame.names = []
        frame.subdirectories.reverse()
        if len(self._frames) > OPEN_DIRECTORIES:
            shallow = self._frames[-1 - OPEN_DIRECTORIES]
            if shallow.fd >= 0:
                os.close(shallow.fd)
                shallow.fd = -1

    def _step(self, frame: _Frame) -> None:
        """Enter the next subdirectory, or finish the directory."""
        if frame.subdirectories:
            name, ino, seen = frame.subdirectories.pop()
            try:
                self._descend(frame, name, ino, seen)
            except OSError as error:
                del frame.entries[name]
                self._skip(frame.prefix + name, error.strerror or "cannot be read")
            return
        if frame.fd >= 0 and not scan.unchanged(frame.node.seen, os.fstat(frame.fd)):
            self._changed.append(frame.prefix[:-1])
        self._finish_directory(frame)
        self._frames.pop()
        try:
            if self._frames and self._frames[-1].fd < 0:
                self._reopen(self._frames[-1], frame.fd)
        finally:
            if frame.fd >= 0:
                os.close(frame.fd)

    def _reopen(self, frame: _Frame, child: int) -> None:
        """Open a directory again from its child; when it was moved away, what is left in it is out of reach."""
        try:
            if child < 0:
                raise scan.Changed
            frame.fd = scan.open_parent(child, frame.identity)
        except OSError:
            for name, _, _ in frame.subdirectories:
                del frame.entries[name]
                self._skip(frame.prefix + name, "a directory above it was moved")
            frame.subdirectories = []

    def _descend(self, frame: _Frame, name: bytes, ino: int, seen: os.stat_result) -> None:
        path = frame.prefix + name
        reason = ""
        if seen.st_dev != self._device:
            reason = "on another filesystem"
        else:
            try:
                fd = scan.open_directory(frame.fd, name, seen)
            except PermissionError as error:
                reason = f"cannot be listed: {error.strerror}"
        link = (frame.node.ino, name)
        if not reason:
            self._enter(fd, _Node(ino, seen, self._xattrs(path, fd), link), path)
            return
        self._skip(path, reason)
        node = _Node(ino, seen, self._xattrs(path, frame.fd, name), link)
        self._record(node, EMPTY, 2)

    def _entry(self, frame: _Frame, name: bytes, path: bytes) -> None:
        """Take one entry; a directory is only queued. Raises OSError when the source cannot be read."""
        if len(name) > NAME_MAX:  # on a few filesystems
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        seen = os.stat(name, dir_fd=frame.fd, follow_symlinks=False)
        mode = seen.st_mode
        if self._excludes.match(path, stat.S_ISDIR(mode)):
            return
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFDIR:
            if (seen.st_dev, seen.st_ino) in self._forbidden:
                self._skip(path, "the store itself")
                return
            ino = frame.children.next(name)
            frame.subdirectories.append((name, ino, seen))
        elif seen.st_dev != self._device and scan.mount_id(frame.fd) != scan.mount_id(frame.fd, name):
            self._skip(path, "on another filesystem")
            return
        elif seen.st_nlink > 1 and (known := self._linked.get((seen.st_dev, seen.st_ino))):
            known.links.append((frame.node.ino, name))
            ino = known.ino
        elif kind == stat.S_IFREG:
            ino = self._regular(frame, name, path, seen)
        else:
            ino = self._other(frame, name, path, seen)
        frame.entries[name] = (ino, kind >> 12)

    # -- single inodes --

    def _regular(self, frame: _Frame, name: bytes, path: bytes, seen: os.stat_result) -> int:
        """Read a regular file; again when it changes meanwhile."""
        ino = frame.children.next(name)
        for attempt in range(1, ATTEMPTS + 1):
            fd = scan.open_file(frame.fd, name)
            try:
                node = _Node(ino, seen, self._xattrs(path, fd), (frame.node.ino, name))
                if seen.st_nlink > 1:
                    self._linked[seen.st_dev, seen.st_ino] = node
                self._batch.add(node, seen.st_size, self._file_blocks(fd, node, path, attempt == ATTEMPTS))
                return ino
            except scan.Changed:
                self._linked.pop((seen.st_dev, seen.st_ino), None)
                if attempt == ATTEMPTS:
                    raise
            except OSError:
                self._linked.pop((seen.st_dev, seen.st_ino), None)
                raise
            finally:
                os.close(fd)
            seen = os.stat(name, dir_fd=frame.fd, follow_symlinks=False)
            if not stat.S_ISREG(seen.st_mode) or (seen.st_dev, seen.st_ino) in self._linked:
                raise scan.Changed
        raise AssertionError("every attempt returns or raises")

    def _file_blocks(self, fd: int, node: _Node, path: bytes, last: bool) -> Iterator[FileBlock]:
        """The blocks of an open file. Raises Changed at the end when it changed (the last attempt only reports it)."""
        for block in scan.read_blocks(fd, node.seen.st_size, self._block_size):
            node.pages += block.mask.bit_count()
            yield block
        now = os.fstat(fd)
        if not scan.unchanged(node.seen, now):
            if not last or not stat.S_ISREG(now.st_mode):
                raise scan.Changed
            self._changed.append(path)

    def _other(self, frame: _Frame, name: bytes, path: bytes, seen: os.stat_result) -> int:
        """Take a symbolic link, fifo, socket or device."""
        content, target = EMPTY, b""
        if stat.S_ISLNK(seen.st_mode):
            target = scan.read_link(frame.fd, name)
            content = store_symlink(self._writer, self._geometry, target)
        elif not 0 <= seen.st_rdev < 1 << 32:
            raise OSError(0, "its device number has more than 32 bits")
        node = _Node(frame.children.next(name), seen, self._xattrs(path, frame.fd, name), (frame.node.ino, name))
        node.size = len(target)
        if seen.st_nlink > 1:
            self._linked[seen.st_dev, seen.st_ino] = node
        self._stored(node, content)
        return node.ino

    def _xattrs(self, path: bytes, fd: int, name: bytes | None = None) -> tuple[tuple[bytes, bytes], ...]:
        try:
            xattrs = scan.read_xattrs(fd, name)
        except OSError as error:
            self._skip(path, f"extended attributes cannot be read: {error.strerror}")
            return ()
        if xattrs and len(encode_xattrs(xattrs)) > XATTRS_MAX:
            self._skip(path, f"extended attributes: more than {XATTRS_MAX} bytes")
            return ()
        owners = self._owners
        return xattrs if owners is None else tuple((key, owners.stored_xattr(key, value)) for key, value in xattrs)

    def _stored(self, node: _Node, content: Content) -> None:
        """The content of an inode is stored; its record waits when there may be more names."""
        if node.seen.st_nlink > 1:
            self._contents[node.ino] = content
        else:
            self._record(node, content, 1)

    # -- records --

    def _finish_directory(self, frame: _Frame) -> None:
        entries = [(name, ino, kind) for name, (ino, kind) in frame.entries.items()]
        content, nlink = store_directory(self._writer, self._geometry, entries, frame.prefix)
        self._record(frame.node, content, nlink)

    def _record(self, node: _Node, content: Content, nlink: int) -> None:
        """Encode an inode whose content and names are known."""
        seen, owners = node.seen, self._owners
        uid, gid = seen.st_uid, seen.st_gid
        if owners is not None:
            uid, gid = owners.users.stored(uid), owners.groups.stored(gid)
        attributes = Attributes(
            seen.st_mode, uid, gid, seen.st_mtime_ns, seen.st_rdev, node.size, node.pages, node.xattrs
        )
        self._table[node.ino] = encode(self._writer, self._geometry, attributes, node.links, content, nlink)
        pages = allocated_pages(attributes)
        self._bytes += pages * PAGE if stat.S_ISREG(seen.st_mode) else 0
        self._files += 1
        self._logical += pages * PAGE
        self._report()

    # -- reports --

    def _skip(self, path: bytes, reason: str) -> None:
        self._skipped.append((path, reason))

    def _report(self, force: bool = False) -> None:
        files, size = self._reported
        if self._progress and (force or self._files - files >= PROGRESS_FILES or self._bytes - size >= PROGRESS_BYTES):
            self._reported = (self._files, self._bytes)
            self._progress(self._files, self._bytes)
