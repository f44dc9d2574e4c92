"""Mounting and unmounting, through mount(2) or fusermount3, and the control files of a FUSE connection (fusectl).

A :class:`Connection` is what a mount needs to be served: made in one process, it can be served in
another that is given the descriptor and the rest of its fields.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound
from cowfs_daemon.fuse import fusermount
from cowfs_daemon.fuse.negotiate import REQUEST_BYTES, Negotiated, negotiate

_libc = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOATIME = 1, 2, 4, 1024
_MNT_FORCE, _MNT_DETACH = 1, 2
_INIT_TIMEOUT_MS = 10_000
_CONNECTIONS = Path("/sys/fs/fuse/connections")
READ_AHEAD_KB = 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """One mount's end of /dev/fuse.

    ``fd`` is non-blocking and close-on-exec. ``connection_id`` is the caller's: unique per mount for
    ever, part of the journaled request keys (the kernel's request numbers restart with every mount).
    ``number`` is the kernel's number of the connection, under /sys/fs/fuse/connections.
    """

    fd: int
    init: Negotiated
    mountpoint: str
    connection_id: int
    number: int


def prepare_mountpoint(path: str) -> None:
    """Make the directory ``path``; directories made on the way are open to their owner only (0700).

    Raises :class:`Conflict` when something that is no directory is in the way.
    """
    missing: list[str] = []
    at = os.path.abspath(path)
    while not os.path.lexists(at):
        missing.append(at)
        at = os.path.dirname(at)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    if not os.path.isdir(path):
        raise Conflict(f"{path}: not a directory", hint="move it away, it is where a workspace gets mounted")


def mount(mountpoint: str, *, connection_id: int, read_only: bool = False) -> Connection:
    """Mount on the existing directory ``mountpoint`` and answer INIT; nothing else is answered yet.

    nosuid, nodev, noatime (times of access are set by utimensat alone), permissions checked by the kernel. An ordinary
    user's mounts are shown to nobody else, not even root, unless /etc/fuse.conf allows it.
    Raises :class:`Invalid` when /dev/fuse or the right to mount is missing, :class:`NotFound` for a missing
    mount point, :class:`Busy` when the kernel says so.
    """
    fd = _mount_directly(mountpoint, read_only) if _is_root() else _mount_as_user(mountpoint, read_only)
    try:
        init = _answer_init(fd, passthrough=read_only and _is_root())
        number = _device_minor(mountpoint)
    except BaseException:
        os.close(fd)
        unmount(mountpoint, force=True)
        raise
    _raise_read_ahead(number)
    return Connection(fd, init, os.path.abspath(mountpoint), connection_id, number)


def _is_root() -> bool:
    return os.geteuid() == 0


def _mount_directly(mountpoint: str, read_only: bool) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Invalid(
            f"/dev/fuse cannot be opened: {error.strerror}",
            hint="load the fuse module, or give the container --device /dev/fuse and CAP_SYS_ADMIN",
        ) from error
    options = f"fd={fd},rootmode=40000,user_id=0,group_id={os.getegid()},default_permissions,allow_other"
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOATIME | (_MS_RDONLY if read_only else 0)
    if _libc.mount(b"cowfs", os.fsencode(mountpoint), b"fuse.cowfs", flags, options.encode()):
        number = ctypes.get_errno()
        os.close(fd)
        raise _mount_error(mountpoint, number)
    return fd


def _mount_as_user(mountpoint: str, read_only: bool) -> int:
    options = ["fsname=cowfs", "subtype=cowfs", "default_permissions", "noatime", "nosuid", "nodev"]
    options += ["ro"] if read_only else []
    options += ["allow_other"] if fusermount.others_allowed() else []
    fd = fusermount.mount(mountpoint, options)
    os.set_blocking(fd, False)
    return fd


def _mount_error(mountpoint: str, number: int) -> CowfsError:
    message = f"{mountpoint}: cannot mount: {os.strerror(number)}"
    if number in (errno.EPERM, errno.EACCES):
        return Invalid(message, hint="mounting needs CAP_SYS_ADMIN: run as root, or in a user namespace with it")
    if number == errno.ENODEV:
        return Invalid(message, hint="this kernel has no FUSE: load the fuse module")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message)
    if number == errno.EBUSY:
        return Busy(message)
    return Invalid(message)


def _answer_init(fd: int, *, passthrough: bool) -> Negotiated:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(_INIT_TIMEOUT_MS):
        raise Busy("the kernel sent no FUSE INIT request")
    with unless_gone():
        agreed, reply = negotiate(os.read(fd, REQUEST_BYTES), passthrough=passthrough)
        os.write(fd, reply)
    return agreed


@contextlib.contextmanager
def unless_gone() -> Iterator[None]:
    """Around what makes a mount, or begins to serve it: Busy when somebody has unmounted it meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT):
            raise
        raise Busy("it was unmounted while it was being mounted", hint="try again") from error


def _device_minor(mountpoint: str) -> int:
    """The minor device number of the mount, read without asking the (yet unserved) filesystem."""
    path = os.path.realpath(os.path.dirname(os.path.abspath(mountpoint)))
    wanted = os.path.join(path, os.path.basename(os.path.abspath(mountpoint)))
    found = [mounted for mounted in mount_table() if mounted.path == wanted]
    if not found:
        raise NotFound(f"{mountpoint}: gone from the mount table")
    return os.minor(found[-1].device)


def _raise_read_ahead(number: int) -> None:
    """INIT can only lower read-ahead; more needs the right to write to sysfs, and is not essential."""
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/0:{number}/read_ahead_kb").write_text(str(READ_AHEAD_KB))


def unmount(mountpoint: str, *, force: bool = False) -> None:
    """Unmount; with ``force`` detach from the tree at once, while those who use it may go on.

    Nothing mounted there is fine. Raises :class:`Busy` when in use and not forced.
    """
    if not _is_root():
        fusermount.unmount(mountpoint, lazy=force)
        return
    if not _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if force else 0):
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        raise Busy(f"{mountpoint}: in use", hint="stop what uses it (see fuser -vm), or force")
    if number in (errno.EPERM, errno.EACCES):
        raise Invalid(f"{mountpoint}: cannot unmount: {os.strerror(number)}", hint="run as the user who mounted it")
    if number not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, os.strerror(number), mountpoint)


def control_directory(number: int) -> Path:
    """The fusectl directory of a connection; fusectl is mounted if it is not. Raises :class:`NotFound`."""
    if _is_root() and not any(_CONNECTIONS.iterdir()) and not os.path.ismount(_CONNECTIONS):
        _libc.mount(b"none", os.fsencode(_CONNECTIONS), b"fusectl", 0, None)
    directory = _CONNECTIONS / str(number)
    if not directory.is_dir():
        raise NotFound(f"FUSE connection {number}: no such connection")
    return directory


def abort(number: int) -> None:
    """Cut a connection: every waiting request ends with an error. Raises :class:`NotFound` when it is gone."""
    (control_directory(number) / "abort").write_text("1")


def waiting(number: int) -> int:
    """How many requests of a connection are unanswered, those that nobody has read included; 0 if that is unknown."""
    try:
        return int((_CONNECTIONS / str(number) / "waiting").read_text())
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table. ``root``: which directory of the filesystem ``path`` shows."""

    mount_id: int
    parent_id: int
    device: int
    root: str
    path: str
    kind: str


def mount_table() -> list[Mounted]:
    """The mounts of this process's mount namespace, in the order of mounting."""
    return parse_mount_table(Path("/proc/self/mountinfo").read_bytes())


def parse_mount_table(text: bytes) -> list[Mounted]:
    """/proc/PID/mountinfo (see proc(5)) -> its lines; octal escapes in paths are undone."""
    mounts: list[Mounted] = []
    for line in text.splitlines():
        fields = line.split(b" ")
        major, _, minor = fields[2].partition(b":")
        kind = fields[fields.index(b"-", 6) + 1]
        mounts.append(
            Mounted(
                int(fields[0]), int(fields[1]), os.makedev(int(major), int(minor)),
                _unescape(fields[3]), _unescape(fields[4]), os.fsdecode(kind),
            )
        )  # fmt: skip
    return mounts


def _unescape(field: bytes) -> str:
    head, *rest = field.split(b"\\")
    return os.fsdecode(head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))
