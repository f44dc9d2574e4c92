"""What the host has a virtual machine do to itself: sync, trim, set its clock, and be another machine after a fork."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import socket
import struct
import time
import uuid
from typing import Any

from cowfs_guest import Refused

FITRIM = 0xC0185879
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207

MACHINE_ID = "/etc/machine-id"
HOSTNAME = "/etc/hostname"
HOST_KEYS = "/etc/ssh/ssh_host_*_key*"

_LIBC = ctypes.CDLL(None, use_errno=True)
_EARLIEST_NS = 946_684_800 * 10**9
_LATEST_NS = 7_258_118_400 * 10**9
"""The years 2000 and 2200: a clock outside of them is a mistake."""


def _opened(root: str) -> int:
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("not_found", f"{root}: {error.strerror}") from None


def sync(roots: list[str]) -> dict[str, Any]:
    """Write what is dirty of the filesystems at ``roots`` to their disks (syncfs). Raises Refused."""
    for root in roots:
        fd = _opened(root)
        try:
            if _LIBC.syncfs(fd):
                raise Refused("internal", f"{root} could not be written: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fd)
    return {}


def trim(roots: list[str]) -> dict[str, Any]:
    """Tell the disks below ``roots`` what is free (FITRIM). Raises Refused, invalid: a disk takes no discards."""
    trimmed = 0
    for root in roots:
        fd = _opened(root)
        try:
            answer = fcntl.ioctl(fd, FITRIM, struct.pack("=QQQ", 0, 2**64 - 1, 0))
            trimmed += struct.unpack("=QQQ", answer)[1]
        except OSError as error:
            why = "its disk takes no discards" if error.errno == errno.EOPNOTSUPP else error.strerror
            raise Refused("invalid", f"{root} cannot be trimmed: {why}", "QEMU: discard=unmap") from None
        finally:
            os.close(fd)
    return {"trimmed_bytes": trimmed}


def clock(time_ns: int) -> dict[str, Any]:
    """Set the clock to ``time_ns`` after 1970; by how much it went on. Raises Refused."""
    if not _EARLIEST_NS <= time_ns <= _LATEST_NS:
        raise Refused("invalid", "a time lies between the years 2000 and 2200")
    step = time_ns - time.time_ns()
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
    except OSError as error:
        raise Refused("invalid", f"the clock cannot be set: {error.strerror}") from None
    return {"step_ns": step}


def hygiene(
    seed: bytes = b"", machine_id: bool = False, hostname: str = "", ssh_host_keys: bool = False
) -> dict[str, Any]:
    """Be another machine than the one that this is a copy of; each only when asked. Raises Refused.

    ``seed``: secret bytes, different for each copy, for the kernel's random numbers, which come first, since the new
    ids are made of these. ``ssh_host_keys``: remove them; `ssh-keygen -A` makes new ones.
    """
    done: dict[str, Any] = {}
    try:
        if seed:
            _stir(seed)
            done["seed"] = len(seed)
        if machine_id:
            done["machine_id"] = uuid.uuid4().hex
            _write(MACHINE_ID, done["machine_id"], 0o444)
        if hostname:
            socket.sethostname(hostname)
            _write(HOSTNAME, hostname, 0o644)
            done["hostname"] = hostname
        if ssh_host_keys:
            done["removed"] = sorted(glob.glob(HOST_KEYS))
            for path in done["removed"]:
                os.unlink(path)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Refused("invalid", f"not all of it could be done: {where}{error.strerror}") from None
    return done


def _stir(seed: bytes) -> None:
    with open("/dev/urandom", "rb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack(f"ii{len(seed)}s", len(seed) * 8, len(seed), seed))
        try:
            fcntl.ioctl(device, RNDRESEEDCRNG, 0)  # else the old state is used for some minutes more
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODATA):  # a kernel that cannot, or needs not
                raise


def _write(path: str, text: str, mode: int) -> None:
    """Replace a file in one step, durably: a machine that dies here has the old one or the new one."""
    made = f"{path}.cowfs-new"
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.write(fd, text.encode() + b"\n")
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(made, path)
