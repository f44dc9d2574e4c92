"""What a caller can see of a filesystem with the view's operations, as plain values that compare equal."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple

ATTRIBUTES = ("mode", "uid", "gid", "nlink", "rdev", "size", "blocks", "atime", "mtime", "ctime")

READ_WHOLE = 1 << 21
"""Bytes up to which a file is read holes and all."""


class Who(NamedTuple):
    """A caller, with the fields of the view's ``Caller``."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0
    connection: int = 0
    unique: int = 0


class Changes(NamedTuple):
    """Attributes to set, with the fields of the view's ``SetAttr``; a time that is no number means now."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: Any = None
    mtime: Any = None
    ctime: Any = None
    kill_priv: bool = False


class Seen(NamedTuple):
    """One inode: attributes by name, entries as name -> (inode, kind), bytes or target, xattrs, data ranges.

    Of more than 100 bytes, ``data`` holds the first few and a hash, so that a failure can be read.
    """

    attributes: dict[str, int]
    entries: dict[bytes, tuple[int, int]]
    data: bytes
    xattrs: dict[bytes, bytes]
    ranges: tuple[tuple[int, int], ...]


def outcome(filesystem: Any, operation: str, *args: Any, **options: Any) -> Any:
    """What a call gives: ("ok", value), an inode as its number; or ("errno", name)."""
    try:
        value = getattr(filesystem, operation)(*args, **options)
    except OSError as error:
        return "errno", errno.errorcode.get(error.errno or 0, str(error))
    return "ok", value.ino if hasattr(value, "ino") else value


def look(filesystem: Any, ino: int) -> Seen:
    """Everything about one inode. Large files are read only where they have data."""
    node = filesystem.inode(ino)
    attributes = {name: getattr(node, name) for name in ATTRIBUTES}
    entries: dict[bytes, tuple[int, int]] = {}
    data = b""
    ranges: tuple[tuple[int, int], ...] = ()
    if stat.S_ISDIR(node.mode) and node.nlink:
        rows = list(filesystem.readdir(ino, 0))
        entries = {name: (child, kind) for _, name, child, kind in rows}
        assert len(entries) == len(rows), f"inode {ino}: readdir repeats a name"
        for position, row in enumerate(rows):
            assert list(filesystem.readdir(ino, row[0])) == rows[position + 1 :], f"inode {ino}: readdir after a cookie"
    elif stat.S_ISLNK(node.mode):
        data = filesystem.readlink(ino)
    elif stat.S_ISREG(node.mode):
        ranges = data_ranges(filesystem, ino, node.size)
        wanted = [(0, node.size)] if node.size <= READ_WHOLE else ranges
        data = b"".join(filesystem.read(ino, start, end - start) for start, end in wanted)
    xattrs = {bytes(name): filesystem.getxattr(ino, name) for name in filesystem.listxattr(ino)}
    if len(data) > 100:
        data = data[:20] + hashlib.sha256(data).hexdigest().encode()
    return Seen(attributes, entries, data, xattrs, ranges)


def data_ranges(filesystem: Any, ino: int, size: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of the data, by SEEK_DATA and SEEK_HOLE."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        result = outcome(filesystem, "seek", ino, at, os.SEEK_DATA)
        if result == ("errno", "ENXIO"):
            break
        start = result[1]
        at = filesystem.seek(ino, start, os.SEEK_HOLE)
        assert start < at <= size, f"inode {ino}: data from {start} to {at} in a file of {size}"
        found.append((start, at))
    return tuple(found)


def look_at_all(filesystem: Any, inodes: Iterable[int]) -> dict[int, Seen]:
    """Several inodes, by number."""
    return {ino: look(filesystem, ino) for ino in sorted(inodes)}
