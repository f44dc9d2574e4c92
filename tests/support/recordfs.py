"""A filesystem that passes everything through to a directory and writes down, in order, whatever changes it.

Run as ``python -m tests.support.recordfs BACKING MOUNT LOG CONTROL``; :class:`Recorded` does that. One thread answers
one request after the other, so the order in the log is the order in which things happened, whoever did them: system
calls of our own processes, LMDB's, pages that the kernel writes back from mappings. An entry of the log is one
marshalled tuple, see :mod:`tests.support.disk`. Nothing is cached for writing, and what is synced here is not synced
below: only the log says what would be durable.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cowfs.errors import Busy
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse import protocol as p

_MKDIR, _MKNOD, _CREATE = struct.Struct("<II"), struct.Struct("<IIII"), struct.Struct("<IIII")
_READ, _WRITE = struct.Struct("<QQI"), struct.Struct("<QQIIQII")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_FORGET, _BATCH, _FORGET_ONE = struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<QQ")
_RENAME, _RENAME2, _LINK = struct.Struct("<Q"), struct.Struct("<QII"), struct.Struct("<Q")
_OPEN, _HANDLE, _OPENED = struct.Struct("<II"), struct.Struct("<Q"), struct.Struct("<IiQQII")
_CONTROL = struct.Struct("<QQQ")  # operations so far; at which of them to kill, and whom
_DATA_AT = p.HEADER_BYTES + _WRITE.size
_BUFFER = 4096 + (1 << 20)
_PATIENCE_S = 20.0


@dataclass(slots=True)
class Status:
    """What the kernel is told of an inode; ``ino`` is the number of its node, not that of the file below."""

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
    btime: int


class Node:
    """One file or directory: ``fd`` names it (O_PATH), whatever its path; kept while it has a name or the kernel
    knows it."""

    def __init__(self, number: int, fd: int, key: tuple[int, int]) -> None:
        self.number = number
        self.fd = fd
        self.key = key
        self.lookups = 0
        self._data = -1

    @property
    def path(self) -> str:
        """A path that leads here even when every name is gone."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def data(self) -> int:
        """A descriptor to read and write with."""
        if self._data < 0:
            self._data = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._data

    def status(self) -> Status:
        """Its attributes now."""
        at = os.fstat(self.fd)
        return Status(
            self.number, at.st_mode, at.st_uid, at.st_gid, at.st_nlink, at.st_rdev, at.st_size, at.st_blocks,
            at.st_atime_ns, at.st_mtime_ns, at.st_ctime_ns, at.st_ctime_ns,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)
        if self._data >= 0:
            os.close(self._data)


Handler = Callable[[int, Node, int], bytes]
"""(unique, node, size of the request) -> the reply. Raises OSError for an errno."""


class Server:
    """Answers one mount's requests."""

    def __init__(self, backing: str, fd: int, log: BinaryIO, control: mmap.mmap) -> None:
        self._fd = fd
        self._log = log
        self._control = control
        self._count = 0
        self._nodes: dict[int, Node] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._next = 1
        self._listings: dict[int, list[bytes]] = {}
        self._request = bytearray(_BUFFER)
        self._backing = backing
        self._node(os.open(backing, os.O_PATH | os.O_CLOEXEC))
        self._handlers: dict[int, Handler] = {
            p.LOOKUP: self._lookup, p.GETATTR: self._getattr, p.SETATTR: self._setattr, p.READLINK: self._readlink,
            p.SYMLINK: self._symlink, p.MKNOD: self._mknod, p.MKDIR: self._mkdir, p.UNLINK: self._unlink,
            p.RMDIR: self._rmdir, p.RENAME: self._rename, p.RENAME2: self._rename2, p.LINK: self._link,
            p.OPEN: self._open, p.CREATE: self._create, p.READ: self._read, p.WRITE: self._write,
            p.STATFS: self._statfs, p.RELEASE: self._nothing, p.FSYNC: self._sync, p.FSYNCDIR: self._sync,
            p.OPENDIR: self._opendir, p.RELEASEDIR: self._releasedir, p.IOCTL: self._no_ioctl,
            p.READDIR: lambda unique, node, size: self._readdir(unique, size, b""),
            p.READDIRPLUS: lambda unique, node, size: self._readdir(unique, size, p.NO_ATTRIBUTES),
        }  # fmt: skip

    def note_existing(self) -> None:
        """Write down what is there before the first request, as done and synced."""
        todo = [self._nodes[1]]
        while todo:
            folder = todo.pop()
            for name in sorted(map(os.fsencode, os.listdir(folder.path))):
                node = self._found(folder, name)
                mode = os.fstat(node.fd).st_mode
                self._note("make", folder.number, name, node.number, mode)
                if stat.S_ISDIR(mode):
                    todo.append(node)
                elif stat.S_ISREG(mode):
                    with open(node.path, "rb") as file:
                        self._note("write", node.number, 0, file.read())
                    self._note("sync", node.number)
            self._note("sync", folder.number)

    def run(self) -> None:
        """Answer until the mount is gone."""
        while True:
            try:
                size = os.readv(self._fd, [self._request])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, nodeid = p.header(self._request)
            if opcode in (p.FORGET, p.BATCH_FORGET):
                self._forget(opcode, nodeid, size)
            elif opcode not in (p.INTERRUPT, p.DESTROY):
                with suppress(FileNotFoundError):  # whoever asked is gone
                    os.write(self._fd, self._answer(opcode, unique, nodeid, size))

    def _answer(self, opcode: int, unique: int, nodeid: int, size: int) -> bytes:
        handler = self._handlers.get(opcode)
        if handler is None:
            return p.error(unique, errno.ENOSYS)
        try:
            return handler(unique, self._nodes[nodeid], size)
        except OSError as error:
            return p.error(unique, error.errno or errno.EIO)

    def _note(self, *entry: int | str | bytes) -> None:
        """Write an operation down; end whom it was to be the last of."""
        marshal.dump(entry, self._log)
        self._log.flush()
        self._count += 1
        _, at, pid = _CONTROL.unpack_from(self._control)
        struct.pack_into("<Q", self._control, 0, self._count)
        if at == self._count and pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---- nodes

    def _node(self, fd: int) -> Node:
        """The node of a file that ``fd`` (O_PATH, taken over) names."""
        at = os.fstat(fd)
        key = (at.st_dev, at.st_ino)
        number = self._numbers.get(key)
        if number is not None:
            os.close(fd)
            return self._nodes[number]
        node = self._nodes[self._next] = Node(self._next, fd, key)
        self._numbers[key] = self._next
        self._next += 1
        return node

    def _found(self, parent: Node, name: bytes) -> Node:
        return self._node(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd))

    def _entry(self, unique: int, node: Node) -> bytes:
        node.lookups += 1
        return p.entry(unique, node.status(), p.FOREVER)

    def _forget(self, opcode: int, nodeid: int, size: int) -> None:
        request, at = self._request, p.HEADER_BYTES
        if opcode == p.FORGET:
            gone = [(nodeid, *p.unpack(_FORGET, request, size))]
        else:
            count = p.unpack(_BATCH, request, size)[0]
            gone = [_FORGET_ONE.unpack_from(request, at + _BATCH.size + 16 * i) for i in range(count)]
        for number, count in gone:
            node = self._nodes[number]
            node.lookups -= count
            if node.lookups <= 0 and os.fstat(node.fd).st_nlink == 0:
                del self._nodes[number], self._numbers[node.key]
                node.close()

    # ---- looking

    def _lookup(self, unique: int, parent: Node, size: int) -> bytes:
        try:
            return self._entry(unique, self._found(parent, p.name_at(self._request, size)))
        except FileNotFoundError:
            return p.negative_entry(unique, p.FOREVER)

    def _getattr(self, unique: int, node: Node, size: int) -> bytes:
        return p.attributes(unique, node.status())

    def _readlink(self, unique: int, node: Node, size: int) -> bytes:
        return p.data(unique, os.fsencode(os.readlink("", dir_fd=node.fd)))

    def _statfs(self, unique: int, node: Node, size: int) -> bytes:
        at = os.statvfs(self._backing)
        return p.statfs(unique, at.f_bsize, at.f_blocks, at.f_bavail, at.f_files, at.f_ffree)

    def _opendir(self, unique: int, node: Node, size: int) -> bytes:
        handle = max(self._listings, default=0) + 1
        self._listings[handle] = [b".", b"..", *sorted(map(os.fsencode, os.listdir(node.path)))]
        return _OPENED.pack(_OPENED.size, 0, unique, handle, 0, 0)

    def _readdir(self, unique: int, size: int, before: bytes) -> bytes:
        handle, offset, length = p.unpack(_READ, self._request, size)
        body = bytearray()
        for cookie, name in enumerate(self._listings[handle][offset:], offset + 1):
            entry = before + p.dirent(cookie, cookie, name, 0)
            if len(body) + len(entry) > length:
                break
            body += entry
        return p.data(unique, bytes(body))

    def _releasedir(self, unique: int, node: Node, size: int) -> bytes:
        del self._listings[p.unpack(_HANDLE, self._request, size)[0]]
        return p.error(unique, 0)

    def _nothing(self, unique: int, node: Node, size: int) -> bytes:
        return p.error(unique, 0)

    def _no_ioctl(self, unique: int, node: Node, size: int) -> bytes:
        return p.error(unique, errno.ENOTTY)

    # ---- data

    def _open(self, unique: int, node: Node, size: int) -> bytes:
        if p.unpack(_OPEN, self._request, size)[0] & os.O_TRUNC:
            self._resize(node, 0)
        return p.opened(unique, p.FOPEN_KEEP_CACHE)

    def _read(self, unique: int, node: Node, size: int) -> bytes:
        _, offset, length = p.unpack(_READ, self._request, size)
        return p.data(unique, os.pread(node.data, length, offset))

    def _write(self, unique: int, node: Node, size: int) -> bytes:
        _, offset, length, *_ = p.unpack(_WRITE, self._request, size)
        data = bytes(memoryview(self._request)[_DATA_AT : _DATA_AT + length])
        done = os.pwrite(node.data, data, offset)
        if done != length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._note("write", node.number, offset, data)
        return p.counted(unique, done)

    def _resize(self, node: Node, size: int) -> None:
        os.ftruncate(node.data, size)
        self._note("size", node.number, size)

    def _sync(self, unique: int, node: Node, size: int) -> bytes:
        self._note("sync", node.number)
        return p.error(unique, 0)

    def _setattr(self, unique: int, node: Node, size: int) -> bytes:
        valid, _, _, length, _, *_, mode, _, uid, gid, _ = p.unpack(_SETATTR, self._request, size)
        if valid & p.FATTR_SIZE:
            self._resize(node, length)
        if valid & p.FATTR_MODE:
            os.chmod(node.path, stat.S_IMODE(mode))
        if valid & (p.FATTR_UID | p.FATTR_GID):
            os.chown(node.path, uid if valid & p.FATTR_UID else -1, gid if valid & p.FATTR_GID else -1)
        return p.attributes(unique, node.status())

    # ---- names

    def _made(self, unique: int, parent: Node, name: bytes, mode: int) -> bytes:
        node = self._found(parent, name)
        self._note("make", parent.number, name, node.number, mode)
        return self._entry(unique, node)

    def _mknod(self, unique: int, parent: Node, size: int) -> bytes:
        mode, _, umask, _ = p.unpack(_MKNOD, self._request, size)
        name = p.name_at(self._request, size, p.HEADER_BYTES + _MKNOD.size)
        os.mknod(name, mode & ~umask, dir_fd=parent.fd)
        return self._made(unique, parent, name, mode & ~umask)

    def _mkdir(self, unique: int, parent: Node, size: int) -> bytes:
        mode, umask = p.unpack(_MKDIR, self._request, size)
        name = p.name_at(self._request, size, p.HEADER_BYTES + _MKDIR.size)
        os.mkdir(name, mode & ~umask, dir_fd=parent.fd)
        return self._made(unique, parent, name, stat.S_IFDIR | mode & ~umask)

    def _symlink(self, unique: int, parent: Node, size: int) -> bytes:
        name, target = p.names_at(self._request, size)
        os.symlink(target, name, dir_fd=parent.fd)
        node = self._found(parent, name)
        self._note("symlink", parent.number, name, node.number, target)
        return self._entry(unique, node)

    def _create(self, unique: int, parent: Node, size: int) -> bytes:
        flags, mode, umask, _ = p.unpack(_CREATE, self._request, size)
        name = p.name_at(self._request, size, p.HEADER_BYTES + _CREATE.size)
        try:
            node = self._found(parent, name)
        except FileNotFoundError:
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode & ~umask, dir_fd=parent.fd)
            os.close(fd)
            node = self._found(parent, name)
            self._note("make", parent.number, name, node.number, mode & ~umask)
        else:
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if flags & os.O_TRUNC:
                self._resize(node, 0)
        node.lookups += 1
        return p.created(unique, node.status(), p.FOREVER, p.FOPEN_KEEP_CACHE)

    def _unlink(self, unique: int, parent: Node, size: int) -> bytes:
        name = p.name_at(self._request, size)
        os.unlink(name, dir_fd=parent.fd)
        self._note("remove", parent.number, name)
        return p.error(unique, 0)

    def _rmdir(self, unique: int, parent: Node, size: int) -> bytes:
        name = p.name_at(self._request, size)
        os.rmdir(name, dir_fd=parent.fd)
        self._note("remove", parent.number, name)
        return p.error(unique, 0)

    def _rename(self, unique: int, parent: Node, size: int) -> bytes:
        (target,) = p.unpack(_RENAME, self._request, size)
        return self._moved(unique, parent, target, *p.names_at(self._request, size, p.HEADER_BYTES + _RENAME.size))

    def _rename2(self, unique: int, parent: Node, size: int) -> bytes:
        target, flags, _ = p.unpack(_RENAME2, self._request, size)
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._moved(unique, parent, target, *p.names_at(self._request, size, p.HEADER_BYTES + _RENAME2.size))

    def _moved(self, unique: int, parent: Node, target: int, name: bytes, new_name: bytes) -> bytes:
        os.rename(name, new_name, src_dir_fd=parent.fd, dst_dir_fd=self._nodes[target].fd)
        self._note("rename", parent.number, name, target, new_name)
        return p.error(unique, 0)

    def _link(self, unique: int, parent: Node, size: int) -> bytes:
        (number,) = p.unpack(_LINK, self._request, size)
        name = p.name_at(self._request, size, p.HEADER_BYTES + _LINK.size)
        node = self._nodes[number]
        os.link(node.path, name, dst_dir_fd=parent.fd, follow_symlinks=True)
        self._note("link", parent.number, name, node.number)
        return self._entry(unique, node)


class Recorded:
    """A mount at ``folder/mount`` whose files lie in ``folder/backing`` (empty at first, or what is there)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mount"
        self.backing = folder / "backing"
        self.log = folder / "log"
        for each in (self.path, self.backing):
            each.mkdir(parents=True, exist_ok=True)
        control = folder / "control"
        control.write_bytes(bytes(_CONTROL.size))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        words = [sys.executable, "-m", "tests.support.recordfs", self.backing, self.path, self.log, control]
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, env=environment)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the recorder did not start"

    @property
    def operations(self) -> int:
        """How many operations there have been."""
        return int(_CONTROL.unpack_from(self._control)[0])

    def kill_at(self, operation: int, pid: int) -> None:
        """Kill ``pid`` when the ``operation``-th (counted from 1) has been done, before it is answered."""
        struct.pack_into("<QQ", self._control, 8, operation, pid)

    def close(self) -> None:
        """Unmount, as soon as those who use it have let go."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                mounts.unmount(str(self.path))
                break
            except Busy:
                if time.monotonic() > until:
                    mounts.unmount(str(self.path), force=True)
                    break
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
        try:
            assert self._process.wait(_PATIENCE_S) == 0
        finally:
            self._process.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._control.close()


def main() -> None:
    """See the module."""
    backing, path, log_path, control_path = sys.argv[1:]
    with open(log_path, "ab") as log, open(control_path, "r+b") as file:
        control = mmap.mmap(file.fileno(), _CONTROL.size)
        connection = mounts.mount(path, connection_id=1)
        os.set_blocking(connection.fd, True)
        server = Server(backing, connection.fd, log, control)
        server.note_existing()
        print("ready", flush=True)
        server.run()


_libc = ctypes.CDLL(None)

if __name__ == "__main__":
    _libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: not longer than who started it
    main()
