"""The stage of one case: a directory with files of a kind, the user who acts, and what is recorded of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.conformance import calls

Value = Any
"""What JSON can carry."""


class User(NamedTuple):
    """Credentials. The owner of what lies in a scene is 1001:2001."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User("root", 0, 0)
OWNER = User("owner", 1001, 2001)
MEMBER = User("member", 1002, 2001)
SUPPLEMENTARY = User("supplementary", 1003, 3003, (2001,))
OTHER = User("other", 1004, 3004, (3005,))
USERS = (ROOT, OWNER, MEMBER, SUPPLEMENTARY, OTHER)
STRANGERS = (OWNER, MEMBER, SUPPLEMENTARY, OTHER)

KINDS = (
    "file", "empty", "sparse", "hard", "dir", "full", "tolink", "todir", "dangling", "loop", "fifo", "socket", "char",
    "block", "missing",
)  # fmt: skip
"""Kinds of file: see :meth:`Scene.make`."""

CONTENT = bytes(range(251)) * 20
_CONTENT_SHOWN = 1 << 16


class Recorded(NamedTuple):
    """One step: its label, its result, and the attributes of everything in the scene after it."""

    label: str
    result: Value
    attributes: dict[str, dict[str, Value]]


def name_of(error: OSError) -> str:
    """An errno by its name."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


class Scene:
    """The current directory is the scene. ``d`` and ``e`` are directories in it, made by :meth:`directories`."""

    def __init__(self, user: User) -> None:
        self.steps: list[Recorded] = []
        self._user = user
        self._fds: list[int] = []
        self._numbers: dict[int, int] = {}
        self._times: dict[int, tuple[int, ...]] = {}
        self._acting = False

    # ---- what is there, made by root

    def directories(self, mode: int = 0o777, uid: int = OWNER.uid, gid: int = OWNER.gid) -> None:
        """``d`` and ``e``: same mode, same owner."""
        for name in ("d", "e"):
            os.mkdir(name)
            os.chown(name, uid, gid)
            os.chmod(name, mode)

    def make(self, path: str, kind: str, mode: int = 0o644, uid: int = OWNER.uid, gid: int = OWNER.gid) -> None:
        """A file of a kind; symlinks lead to the siblings ``f`` and ``g`` of ``path``, which come with them."""
        above = os.path.dirname(path)
        if kind == "missing":
            return
        if kind in ("tolink", "todir", "dangling", "loop"):
            target = {"tolink": "f", "todir": "g", "dangling": "nowhere", "loop": os.path.basename(path)}[kind]
            os.symlink(target, path)
            os.lchown(path, uid, gid)
            if kind in ("tolink", "todir") and not os.path.lexists(os.path.join(above, target)):
                self.make(os.path.join(above, target), "file" if kind == "tolink" else "dir", mode, uid, gid)
            return
        self._make_plain(path, kind)
        os.chown(path, uid, gid)
        os.chmod(path, mode)

    def _make_plain(self, path: str, kind: str) -> None:
        if kind in ("file", "hard", "empty", "sparse"):
            with open(path, "wb") as file:
                if kind == "sparse":
                    file.truncate(200_000)
                    file.seek(65536)
                file.write(b"" if kind == "empty" else CONTENT)
            if kind == "hard":
                os.link(path, path + ".other")
        elif kind in ("dir", "full"):
            os.mkdir(path)
            if kind == "full":
                with open(path + "/inside", "wb") as file:
                    file.write(b"inside")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path)
        else:
            formats = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
            os.mknod(path, formats[kind] | 0o644, os.makedev(1, 3) if kind != "fifo" else 0)

    # ---- acting

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Within, calls are the user's."""
        os.setgroups(self._user.groups)
        os.setresgid(self._user.gid, self._user.gid, 0)
        os.setresuid(self._user.uid, self._user.uid, 0)
        calls.stay_dumpable()
        self._acting = True
        try:
            yield
        finally:
            self._acting = False
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(())

    def do(self, label: str, call: Callable[..., Value], *arguments: Any) -> Value:
        """One step: its result or errno is recorded, and the attributes after it. Returns the result, or None."""
        value: Value = None
        try:
            with self.acting():
                value = call(*arguments)
            result = _plain(value)
        except OSError as error:
            result = name_of(error)
        self.steps.append(Recorded(label, result, self.attributes()))
        return value

    def open(self, label: str, path: str, flags: int, mode: int = 0o666) -> int | None:
        """Open as a step; the descriptor is closed with the scene."""
        opened: list[int] = []

        def call() -> str:
            opened.append(os.open(path, flags | os.O_NONBLOCK, mode))
            return "opened"

        self.do(label, call)
        self._fds += opened
        return opened[0] if opened else None

    def root_open(self, path: str, flags: int) -> int:
        """Open before acting, by root, without a record."""
        fd = os.open(path, flags | os.O_NONBLOCK)
        self._fds.append(fd)
        return fd

    def keep(self, fd: int) -> int:
        """Close ``fd`` with the scene."""
        self._fds.append(fd)
        return fd

    def say(self, label: str, value: Value) -> None:
        """Record a value without a call."""
        self.steps.append(Recorded(label, _plain(value), {}))

    def close(self) -> None:
        """Close what was opened."""
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()

    # ---- attributes

    def attributes(self) -> dict[str, dict[str, Value]]:
        """Everything below the scene, as root sees it, by path."""
        found: dict[str, dict[str, Value]] = {}
        times: dict[int, tuple[int, ...]] = {}
        waiting = [b"."]
        while waiting:
            path = waiting.pop()
            seen = calls.statx(path)
            found[path.decode(errors="backslashreplace")] = self._described(path, seen)
            times[seen.ino] = (seen.atime, seen.mtime, seen.ctime)
            if stat.S_ISDIR(seen.mode):
                waiting += [path + b"/" + name for name in sorted(os.listdir(path))]
        self._times.update(times)
        return found

    def _described(self, path: bytes, seen: calls.Statx) -> dict[str, Value]:
        regular, symlink = stat.S_ISREG(seen.mode), stat.S_ISLNK(seen.mode)
        number = self._numbers.setdefault(seen.ino, len(self._numbers))
        described: dict[str, Value] = {
            "mode": oct(seen.mode), "nlink": seen.nlink, "uid": seen.uid, "gid": seen.gid, "inode": number,
            "rdev": list(seen.rdev), "times": self._moved(seen), "born": seen.btime is not None,
        }  # fmt: skip
        if not stat.S_ISDIR(seen.mode):
            described["size"], described["blocks"] = seen.size, seen.blocks
        if symlink:
            described["target"] = os.readlink(path).decode()
        if regular and seen.size <= _CONTENT_SHOWN:
            described["content"] = _content(path)
        if names := os.listxattr(path, follow_symlinks=False):
            described["xattrs"] = {name: _xattr(path, name) for name in sorted(names)}
        return described

    def _moved(self, seen: calls.Statx) -> str:
        """Which of the times of access, change and status change moved since the last step, and those set by hand."""
        now = (seen.atime, seen.mtime, seen.ctime)
        before = self._times.get(seen.ino)
        moved = (
            "new"
            if before is None
            else "".join(letter for letter, old, new in zip("amc", before, now, strict=True) if old != new)
        )
        by_hand = [f"{letter}={time}" for letter, time in zip("am", now, strict=False) if not _RECENT < time < _FUTURE]
        return " ".join([moved, *by_hand])


_RECENT, _FUTURE = 1_500_000_000 * 10**9, 4_000_000_000 * 10**9


def _content(path: bytes) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        return shorten(os.pread(fd, _CONTENT_SHOWN + 1, 0))
    finally:
        os.close(fd)


def _xattr(path: bytes, name: str) -> str:
    return shorten(os.getxattr(path, name, follow_symlinks=False))


def shorten(data: bytes) -> str:
    """Bytes as text that can be compared; long ones as their length and hash."""
    if len(data) <= 64:
        return data.hex()
    import zlib

    return f"{len(data)} bytes, {zlib.crc32(data):08x}"


def _plain(value: Value) -> Value:
    if isinstance(value, bytes):
        return shorten(value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def clear(path: str) -> None:
    """Remove a scene, immutable modes and all; root does."""
    shutil.rmtree(path)
