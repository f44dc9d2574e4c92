"""Export: a root -> a tar archive (pax), byte for byte the same each time.

Names in sorted order, parents first; what does not fit a plain header goes into pax records: times in ns, long names,
large numbers, extended attributes (SCHILY.xattr), access lists (SCHILY.acl, with numbers), holes (GNU sparse 1.0). The
first name of a file has its content, the others are hard links to that. Sockets are left out, as by tar.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Protocol

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import EMPTY, InodeRecord
from cowfs.settle.acltext import acl_to_text
from cowfs.settle.readtree import StoredTree
from cowfs.tree.content import read_blocks, read_symlink, record_xattrs

BLOCK = 512
RECORD = 10_240
"""An archive is filled up to a multiple of this, as tar does."""

NS = 1_000_000_000
_KINDS = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}  # fmt: skip
_ACLS = {b"system.posix_acl_access": b"SCHILY.acl.access", b"system.posix_acl_default": b"SCHILY.acl.default"}
_DEVICE = (stat.S_IFCHR, stat.S_IFBLK)
_EMPTY = InodeRecord(stat.S_IFREG | 0o600, 0, 0, 1, 0, 0, 0, 17, 0, 0, 0, 0, (), (), EMPTY)

Progress = Callable[[int, int], None]
Skip = Callable[[bytes, str], None]


class Sink(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> object:
        """All of them, or it raises OSError."""


def export_tar(blocks: BlockSource, root: bytes, out: Sink, progress: Progress, skip: Skip) -> None:
    """Write the archive of ``root`` to ``out``. ``skip(path, reason)`` is called for what is left out.

    Raises OSError, Corrupt (a damaged block: the archive is not complete).
    """
    tree = StoredTree(blocks, root)
    archive = TarWriter(tree, out, skip, progress)
    for path, ino in tree.walk():
        archive.entry(path, ino)
    archive.end()


def write_tar(blocks: BlockSource, root: bytes, target: bytes, progress: Progress, skip: Skip) -> None:
    """:func:`export_tar` to the new file ``target``, which is on the disk then; it goes when that fails."""
    with open(target, "xb") as out:
        try:
            export_tar(blocks, root, out, progress, skip)
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            os.unlink(target)
            raise


class TarWriter:
    """Writes entries of a tree. ``acls``: access lists in words, as tar does it; else as attributes, as in images."""

    def __init__(self, tree: StoredTree, out: Sink, skip: Skip, progress: Progress, *, acls: bool = True) -> None:
        self._tree = tree
        self._blocks = tree.blocks
        self._out = out
        self._progress = progress
        self._skip = skip
        self._acls = acls
        self._first: dict[int, bytes] = {}  # files with more names: the path of the first
        self.files = self.written = 0

    def end(self) -> None:
        """The mark of the end."""
        end = 2 * BLOCK
        self._write(bytes(end + -(self.written + end) % RECORD))
        self._progress(self.files, self.written)

    def empty(self, path: bytes) -> None:
        """An empty file that is not in the tree."""
        self._header(path, b"0", _EMPTY, b"", 0, [])
        self._counted()

    def entry(self, path: bytes, ino: int) -> None:
        """An inode of the tree under a path; a second one is a hard link to the first."""
        record = self._tree.inode(ino)
        kind = stat.S_IFMT(record.mode)
        if kind not in _KINDS:
            self._skip(path, "a socket is not kept in an archive")
            return
        self._counted()
        name = path + b"/" if kind == stat.S_IFDIR else path
        if not path:
            name = b"./"
        first = self._first.get(ino)
        if first is not None:
            self._header(name, b"1", record, first, 0, [])
            return
        if kind != stat.S_IFDIR and record.nlink > 1:
            self._first[ino] = path
        pax = [*self._xattrs(record, path)]
        target = read_symlink(self._blocks, record.content) if kind == stat.S_IFLNK else b""
        if kind == stat.S_IFREG:
            self._file(name, record, pax)
        else:
            self._header(name, _KINDS[kind], record, target, 0, pax)

    def _counted(self) -> None:
        self.files += 1
        if not self.files % 256:
            self._progress(self.files, self.written)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.written += len(data)

    def _xattrs(self, record: InodeRecord, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        for name, value in record_xattrs(self._blocks, record):
            text = acl_to_text(value) if self._acls and name in _ACLS else None
            if text is not None:
                yield _ACLS[name], text
            elif b"=" in name:
                self._skip(path, f"the extended attribute {os.fsdecode(name)} has a name that no archive keeps")
            else:
                yield b"SCHILY.xattr." + name, value

    def _file(self, name: bytes, record: InodeRecord, pax: list[tuple[bytes, bytes]]) -> None:
        regions = self._tree.regions(record)
        if regions == [(0, record.size)] or not record.size:
            self._header(name, b"0", record, b"", record.size, pax)
            stored = self._data(record, None)
        else:
            if not regions or sum(regions[-1]) < record.size:
                regions.append((record.size, 0))  # as GNU tar does: otherwise it makes the file end here
            lines = [len(regions), *(number for region in regions for number in region)]
            text = b"".join(b"%d\n" % number for number in lines)
            text += bytes(-len(text) % BLOCK)
            size = len(text) + sum(length for _, length in regions)
            pax = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name),
                   (b"GNU.sparse.realsize", b"%d" % record.size), *pax]  # fmt: skip
            self._header(name, b"0", record, b"", size, pax)
            self._write(text)
            stored = len(text) + self._data(record, regions)
        self._write(bytes(-stored % BLOCK))

    def _data(self, record: InodeRecord, regions: list[tuple[int, int]] | None) -> int:
        """Write a file's bytes, or those in ``regions`` alone; how many."""
        block, begun = 1 << record.block_log2, self.written
        left = iter(regions or ())
        region = next(left, None)
        for each in read_blocks(self._blocks, record.content, record.size, block):
            if regions is None:
                self._write(each.data)
                continue
            start, end = each.number * block, each.number * block + len(each.data)
            while region is not None and region[0] < end:
                low, high = max(region[0], start), min(sum(region), end)
                self._write(each.data[low - start : high - start])
                if sum(region) > end:
                    break
                region = next(left, None)
        return self.written - begun

    def _header(
        self, name: bytes, kind: bytes, record: InodeRecord, target: bytes, size: int, pax: list[tuple[bytes, bytes]]
    ) -> None:
        seconds, rest = divmod(record.mtime, NS)
        fields = [("uid", record.uid, 1 << 21), ("gid", record.gid, 1 << 21), ("size", size, 1 << 33)]
        wide = [(text.encode(), b"%d" % value) for text, value, limit in fields if value >= limit]
        if rest or not 0 <= seconds < 1 << 33:
            wide.append((b"mtime", _decimal_time(record.mtime)))
        if len(name) > 100 and (b"GNU.sparse.major", b"1") not in pax:
            wide.append((b"path", name))
        if len(target) > 100:
            wide.append((b"linkpath", target))
        if wide or pax:
            records = b"".join(_pax_record(*each) for each in sorted(wide + pax))
            self._write(_block(b"pax", b"x", 0o644, 0, 0, len(records), 0, b"", 0))
            self._write(records + bytes(-len(records) % BLOCK))
        rdev = record.rdev if stat.S_IFMT(record.mode) in _DEVICE and kind != b"1" else 0
        uid, gid, size = (0 if value >= limit else value for _, value, limit in fields)
        time = seconds if 0 <= seconds < 1 << 33 else 0
        self._write(_block(name[:100], kind, record.mode & 0o7777, uid, gid, size, time, target[:100], rdev))


def file_header(name: bytes, size: int) -> bytes:
    """The header of a plain file of an archive's own, with a ``name`` of at most 100 bytes."""
    return _block(name, b"0", 0o644, 0, 0, size, 0, b"", 0)


def _decimal_time(ns: int) -> bytes:
    sign, (seconds, rest) = (b"-" if ns < 0 else b""), divmod(abs(ns), NS)
    text = b"%s%d" % (sign, seconds)
    return text + (b".%09d" % rest).rstrip(b"0") if rest else text


def _pax_record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    if len(str(length)) > len(str(size)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, time: int, target: bytes, rdev: int
) -> bytes:
    major, minor = rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & ~0xFF
    fields = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid,
        b"%011o\0" % size if size < 1 << 33 else (1 << 95 | size).to_bytes(12, "big"),
        b"%011o\0" % time, b" " * 8, kind, target.ljust(100, b"\0"), b"ustar\0", b"00", bytes(64),
        b"%07o\0" % major, b"%07o\0" % minor, bytes(155 + 12),
    )  # fmt: skip
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
