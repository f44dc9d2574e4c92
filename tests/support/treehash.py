"""A hash of a directory tree, content and metadata, that owes nothing to the engine.

Two trees with equal totals have the same paths and, at each of them, the same type, mode, owner, size, mtime, device
number, extended attributes, link target, bytes and hard links (which paths are one file, whatever its number).
A tree comes from a native directory, from a mount, or from a view of the engine by its documented calls; all three
give the same value. Not covered unless asked for: inode numbers, ctime, btime, the size and link count of directories
(``identity``), which pages are holes (``holes``). Never covered: atime, since reading changes it.

    python tests/support/treehash.py DIR [--identity] [--holes] [--list]
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

CHUNK = 1 << 20
"""Bytes read at once."""

PAGE = 4096
"""Bytes to whose multiples hole maps are rounded."""

HUGE = 1 << 32
"""Size in bytes above which only pages that are not all zero are hashed, each with its offset."""


class Facts(NamedTuple):
    """What one path is. Times in ns; ``data`` lists (start, end) of allocated ranges; ``content`` is a SHA-256."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    rdev: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: str
    first_path: bytes
    links: int
    data: tuple[tuple[int, int], ...] | None
    identity: tuple[int, ...] | None


@dataclass(frozen=True)
class TreeHash:
    """``total`` names the tree; ``digests`` and ``facts`` name each path (bytes, ``b"."`` is the root itself)."""

    total: str
    digests: dict[bytes, str]
    facts: dict[bytes, Facts]


class _Found(NamedTuple):
    """One path as a source sees it. ``identity``: ino, nlink, size as reported, ctime, btime."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    rdev: int
    identity: tuple[int, int, int, int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    read: Callable[[], Iterator[bytes]]
    ranges: Callable[[], tuple[tuple[int, int], ...]]


def hash_directory(path: str | bytes | os.PathLike[str], *, identity: bool = False, holes: bool = False) -> TreeHash:
    """Hash a native directory or a mount. Directories of other filesystems mounted in it count as empty."""
    root = os.fsencode(path)
    return _total(_walk_directory(root, b".", os.lstat(root).st_dev, identity), identity, holes)


def hash_view(view: Any, *, root: int = 1, identity: bool = False, holes: bool = False) -> TreeHash:
    """Hash the tree below inode ``root`` of a view (or of the model); the caller holds the workspace's lock."""
    return _total(_walk_view(view, root, b"."), identity, holes)


def differences(a: TreeHash, b: TreeHash, limit: int = 20) -> list[str]:
    """What differs, one line a path with the fields by name; the last of ``limit`` lines counts the rest."""
    lines = []
    for path in sorted(a.digests.keys() | b.digests.keys()):
        left, right = a.facts.get(path), b.facts.get(path)
        name = os.fsdecode(path)
        if left is None or right is None:
            lines.append(f"{name}: only in the {'second' if left is None else 'first'}")
        elif a.digests[path] != b.digests[path]:
            fields = [f for f, x, y in zip(Facts._fields, left, right, strict=True) if x != y]
            lines.append(f"{name}: " + ", ".join(f"{f} {getattr(left, f)!r} != {getattr(right, f)!r}" for f in fields))
    if len(lines) > limit:
        lines[limit - 1 :] = [f"and {len(lines) - limit + 1} more"]
    return lines


def _total(found: Iterator[_Found], identity: bool, holes: bool) -> TreeHash:
    """Turn what a source found, in any order, into digests: hard links need all paths first."""
    entries = sorted(found, key=lambda entry: entry.path)
    first: dict[int, bytes] = {}
    links: dict[int, int] = {}
    for entry in entries:
        first.setdefault(entry.identity[0], entry.path)
        links[entry.identity[0]] = links.get(entry.identity[0], 0) + 1
    contents: dict[int, str] = {}
    facts: dict[bytes, Facts] = {}
    for entry in entries:
        ino, regular = entry.identity[0], stat.S_ISREG(entry.mode)
        if ino not in contents:
            contents[ino] = _content(entry)
        facts[entry.path] = Facts(
            entry.mode, entry.uid, entry.gid, 0 if stat.S_ISDIR(entry.mode) else entry.size, entry.mtime,
            entry.rdev if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode) else 0, entry.xattrs, contents[ino],
            first[ino], links[ino], entry.ranges() if holes and regular else None, entry.identity if identity else None,
        )  # fmt: skip
    digests = {path: hashlib.sha256(repr((path, tuple(each))).encode()).hexdigest() for path, each in facts.items()}
    total = hashlib.sha256("".join(digests[path] for path in sorted(digests)).encode()).hexdigest()
    return TreeHash(total, digests, facts)


def _content(entry: _Found) -> str:
    if not stat.S_ISREG(entry.mode) and not stat.S_ISLNK(entry.mode):
        return ""
    digest, length = hashlib.sha256(), 0
    for chunk in entry.read():
        digest.update(chunk)
        length += len(chunk)
    if length != entry.size and not (stat.S_ISREG(entry.mode) and entry.size > HUGE):
        raise ValueError(f"{os.fsdecode(entry.path)}: {length} bytes read of {entry.size}")
    return digest.hexdigest()


# -- a native directory or a mount


def _walk_directory(root: bytes, path: bytes, device: int, identity: bool) -> Iterator[_Found]:
    full = os.path.join(root, path) if path != b"." else root
    status = os.lstat(full)
    born = _birth_time(full) if identity else 0
    names = [
        (name, os.getxattr(full, name, follow_symlinks=False)) for name in os.listxattr(full, follow_symlinks=False)
    ]
    yield _Found(
        path, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_rdev,
        (status.st_ino, status.st_nlink, status.st_size, status.st_ctime_ns, born),
        tuple(sorted((os.fsencode(name), value) for name, value in names)),
        lambda: _read_path(full, status.st_mode), lambda: _path_ranges(full, status.st_size),
    )  # fmt: skip
    if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
        for name in sorted(os.listdir(full)):
            yield from _walk_directory(root, name if path == b"." else path + b"/" + name, device, identity)


def _read_path(path: bytes, mode: int) -> Iterator[bytes]:
    if stat.S_ISLNK(mode):
        yield os.readlink(path)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        if size > HUGE:
            yield from _pages(_path_ranges(path, size), lambda at: os.pread(descriptor, PAGE, at))
        while size <= HUGE and (chunk := os.read(descriptor, CHUNK)):
            yield chunk
    finally:
        os.close(descriptor)


def _pages(ranges: tuple[tuple[int, int], ...], read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Offset and bytes of each page within ``ranges`` that is not all zero."""
    for start, end in ranges:
        for at in range(start, end, PAGE):
            page = bytes(read(at))
            if page.strip(b"\0"):
                yield struct.pack("<Q", at) + page


def _path_ranges(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return _ranges(lambda offset, whence: os.lseek(descriptor, offset, whence), size)
    finally:
        os.close(descriptor)


def _ranges(seek: Callable[[int, int], int], size: int) -> tuple[tuple[int, int], ...]:
    """Allocated ranges by SEEK_DATA and SEEK_HOLE, rounded out to pages and merged."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = seek(at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = seek(start, os.SEEK_HOLE)
        start, end = start // PAGE * PAGE, -(-at // PAGE) * PAGE
        if found and found[-1][1] >= start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return tuple(found)


def _birth_time(path: bytes) -> int:
    """stx_btime in ns by statx(2), which the standard library does not call; 0 where the filesystem has none."""
    at_fdcwd, no_follow, want_btime = -100, 0x100, 0x800
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statx(at_fdcwd, path, no_follow, want_btime, buffer):
        raise OSError(ctypes.get_errno(), "statx")
    (mask,), (seconds, nanoseconds) = struct.unpack_from("I", buffer.raw), struct.unpack_from("qI", buffer.raw, 80)
    return int(seconds * 1_000_000_000 + nanoseconds) if mask & want_btime else 0


# -- a view


def _walk_view(view: Any, ino: int, path: bytes) -> Iterator[_Found]:
    inode = view.inode(ino)
    mode, size = inode.mode, inode.size
    yield _Found(
        path, mode, inode.uid, inode.gid, size, inode.mtime, inode.rdev,
        (ino, inode.nlink, size, inode.ctime, inode.btime),
        tuple(sorted((name, view.getxattr(ino, name)) for name in view.listxattr(ino))),
        lambda: _read_view(view, ino, mode, size),
        lambda: _ranges(lambda offset, whence: view.seek(ino, offset, whence), size),
    )  # fmt: skip
    if stat.S_ISDIR(mode):
        for _, name, child, kind in list(view.readdir(ino, 0)):
            if name in (b".", b".."):
                continue
            if view.inode(child).mode >> 12 != kind:
                raise ValueError(
                    f"readdir gives kind {kind} for {name!r}, its inode has mode {view.inode(child).mode:o}"
                )
            yield from _walk_view(view, child, name if path == b"." else path + b"/" + name)


def _read_view(view: Any, ino: int, mode: int, size: int) -> Iterator[bytes]:
    if stat.S_ISLNK(mode):
        yield bytes(view.readlink(ino))
        return
    if size > HUGE:
        ranges = _ranges(lambda offset, whence: view.seek(ino, offset, whence), size)
        yield from _pages(ranges, lambda at: view.read(ino, at, PAGE))
        return
    for offset in range(0, size, CHUNK):
        yield bytes(view.read(ino, offset, CHUNK))


def main() -> None:
    """Print the total, and with ``--list`` the digest of every path."""
    parser = argparse.ArgumentParser(description="Hash a directory tree, content and metadata.")
    parser.add_argument("directory")
    parser.add_argument("--identity", action="store_true", help="inode numbers, ctime, btime, directory sizes too")
    parser.add_argument("--holes", action="store_true", help="which pages are holes too")
    parser.add_argument("--list", action="store_true", help="the digest of every path")
    arguments = parser.parse_args()
    result = hash_directory(arguments.directory, identity=arguments.identity, holes=arguments.holes)
    if arguments.list:
        for path in sorted(result.digests):
            print(result.digests[path], os.fsdecode(path).encode("utf-8", "backslashreplace").decode())
    print(f"{result.total}  {len(result.digests)} paths")


if __name__ == "__main__":
    main()
