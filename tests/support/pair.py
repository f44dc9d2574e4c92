"""A mount and a native directory under the same operations, and the native one put back to an earlier state.

The native directory is put back by building it anew from the model, which was compared with it when the snapshot was
made: nothing of the filesystem under test takes part.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.compare import outcome
from tests.support.native import Native
from tests.support.node import PAGE, Node


class Held(Native):
    """A directory whose ``opened`` files really are open, and are read and written through those descriptors."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._opened: dict[int, list[list[int]]] = {}

    def close(self) -> None:
        """Let go of every inode."""
        for ino in list(self._opened):
            self._close_all(ino)
        super().close()

    def _close_all(self, ino: int) -> None:
        for descriptors in self._opened.pop(ino, []):
            for descriptor in descriptors:
                os.close(descriptor)

    def descriptors(self, ino: int) -> list[int]:
        """What is open of an inode."""
        return [descriptor for descriptors in self._opened.get(ino, []) for descriptor in descriptors]

    def _open(self, ino: int, flags: int) -> int:
        """A descriptor that was opened before, where there is one that will do."""
        for descriptor in self.descriptors(ino):
            if self._will_do(os_flags(descriptor), flags):
                return os.dup(descriptor)
        return super()._open(ino, flags)

    @staticmethod
    def _will_do(held: int, wanted: int) -> bool:
        return held & os.O_ACCMODE == wanted & os.O_ACCMODE and held & os.O_APPEND == wanted & os.O_APPEND

    def opened(self, ino: int, writable: bool, caller: Any) -> None:
        """Open it: for writing twice, once for O_APPEND. What is no regular file is held by its number alone."""
        wanted = ((os.O_RDWR, os.O_RDWR | os.O_APPEND) if writable else (os.O_RDONLY,)) if self._regular(ino) else ()
        self._opened.setdefault(ino, []).append([Native._open(self, ino, flags) for flags in wanted])

    def opens(self, ino: int) -> list[bool]:
        """For each time that it was opened, whether for writing."""
        return [len(descriptors) == 2 for descriptors in self._opened.get(ino, [])]

    def released(self, ino: int, writable: bool, caller: Any) -> None:
        """Close what was opened last."""
        for descriptor in self._opened[ino].pop():
            os.close(descriptor)

    def _regular(self, ino: int) -> bool:
        return stat.S_ISREG(self.inode(ino).mode)

    def drop(self, ino: int) -> None:
        """The inode is gone; its descriptor may be stale, and not say what it was."""
        self._close_all(ino)
        os.close(self._held.pop(ino))
        self._numbers = {key: number for key, number in self._numbers.items() if number != ino}

    def adopt(self, ino: int, path: bytes) -> None:
        """Know the inode at an absolute path as ``ino``."""
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        self._held[ino] = descriptor
        self._numbers[self._key(os.fstat(descriptor))] = ino

    def real(self, ino: int) -> int:
        """st_ino."""
        return os.fstat(self._at(ino)).st_ino

    def held(self) -> set[int]:
        """The inodes that are known."""
        return set(self._held)

    def path(self, ino: int) -> str:
        """A path that opens the inode, in this process and in others."""
        return f"/proc/{os.getpid()}/fd/{self._at(ino)}"


def os_flags(descriptor: int) -> int:
    """The open flags of a descriptor."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL)


class Pair:
    """Every operation on both; they must give the same, which is the result."""

    def __init__(self, mounted: Held, native: Held) -> None:
        self.mounted = mounted
        self.native = native

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def both(*args: Any, **options: Any) -> Any:
            seen = outcome(self.mounted, operation, *args, **options)
            expected = outcome(self.native, operation, *args, **options)
            assert seen == expected, f"{operation}{args}{options or ''} gives {seen} mounted, {expected} natively"
            return replay(expected)

        return both


def replay(result: tuple[str, Any]) -> Any:
    """Return or raise what :func:`outcome` noted."""
    if result[0] == "errno":
        number = getattr(errno, result[1])
        raise OSError(number, os.strerror(number))
    return result[1]


def paths_of(nodes: Mapping[int, Node]) -> dict[int, list[bytes]]:
    """inode -> its paths relative to the root, directories before what is in them."""
    found: dict[int, list[bytes]] = {1: [b"."]}
    waiting = [(1, b"")]
    while waiting:
        ino, prefix = waiting.pop()
        for name, child in sorted(nodes[ino].entries.items()):
            found.setdefault(child, []).append(prefix + name)
            if nodes[child].is_dir:
                waiting.append((child, prefix + name + b"/"))
    return found


def build(nodes: Mapping[int, Node], root: Path) -> None:
    """Make the empty native directory ``root`` what ``nodes`` say, but for ctime."""
    top, places = os.fsencode(root), paths_of(nodes)
    for ino, names in places.items():
        first = os.path.join(top, names[0])
        if ino != 1:
            _make(nodes[ino], first)
        for name in names[1:]:
            os.link(first, os.path.join(top, name), follow_symlinks=False)
    for ino, names in reversed(places.items()):
        _dress(nodes[ino], os.path.join(top, names[0]))


def _make(node: Node, path: bytes) -> None:
    if node.is_dir:
        os.mkdir(path)
    elif stat.S_ISLNK(node.mode):
        os.symlink(node.target, path)
    else:
        os.mknod(path, stat.S_IFMT(node.mode) | 0o600, node.rdev)
    if stat.S_ISREG(node.mode):
        descriptor = os.open(path, os.O_WRONLY)
        with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)):
            os.ftruncate(descriptor, node.length)
            for number, page in node.pages.items():
                os.pwrite(descriptor, page[: max(node.length - number * PAGE, 0)], number * PAGE)


def _dress(node: Node, path: bytes) -> None:
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if not stat.S_ISLNK(node.mode):
        os.chmod(path, stat.S_IMODE(node.mode))
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(node.atime, node.mtime), follow_symlinks=False)
