"""Loop devices and filesystems on them: attach an image, freeze, let go. Linux; needs root.

Sources: loop(4), ``linux/loop.h``, ``linux/fs.h`` (FIFREEZE, FITHAW).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cowfs.errors import Busy, CowfsError, Invalid

_libc = ctypes.CDLL(None, use_errno=True)
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_LOOP_GET_STATUS64 = 0x4C05
_STATUS_BYTES = 232
_LOOP_MAJOR = 7
LET_GO_SECONDS = 10.0
"""How long the kernel may take to let go of a device after its last user."""

COMMAND_SECONDS = 120.0
"""For mount(8): a journal of the image may have to be replayed."""


@dataclass(frozen=True, slots=True)
class Backing:
    """The file behind a loop device, which is named by its number of device and inode."""

    device: int
    inode: int


def attach(image: int, place: str, *, read_only: bool) -> None:
    """Mount the filesystem in the open file ``image`` at the directory ``place``, through a loop device of its own.

    The device uses direct I/O and gives freed blocks back to the file (as holes); it goes with the mount.
    Raises Invalid: it holds no filesystem that can be mounted; CowfsError: there is no loop device.
    """
    # What an image says should happen on errors (a panic, perhaps) is not its to say.
    options = ["nosuid", "nodev", "noatime", "errors=remount-ro"]
    options += ["ro", "noload"] if read_only else ["discard"]
    words = ["losetup", "--find", "--show", "--direct-io=on", *(("--read-only",) if read_only else ())]
    device = _run([*words, f"/proc/self/fd/{image}"], image).strip()
    try:
        # losetup opens by name what the descriptor is called: somebody may have put something else there meanwhile.
        about = os.fstat(image)
        if backing(f"{_LOOP_MAJOR}:{device.removeprefix('/dev/loop')}") != Backing(about.st_dev, about.st_ino):
            raise Invalid("the disk was replaced by another file while it was attached")
        _run(["mount", "-t", "ext4", "-o", ",".join(options), device, place])
    except Invalid as error:
        raise Invalid(
            f"the disk holds no ext4 filesystem that can be mounted: {error.message}", hint=error.hint
        ) from None
    finally:
        _run(["losetup", "--detach", device])  # at once without a mount, with one when that ends


def _run(words: list[str], *descriptors: int) -> str:
    """What a program of util-linux prints. Raises Invalid with what it complains of."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=descriptors,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CowfsError(f"{words[0]} is missing", hint="Install util-linux (and mount).") from None
    except subprocess.TimeoutExpired:
        raise CowfsError(f"{words[0]} did not end within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"{words[0]} ended with {done.returncode}"
        raise Invalid(said, hint="See dmesg for what the kernel says; `e2fsck -n` looks at an image.")
    return done.stdout


def backing(device: str) -> Backing | None:
    """What is behind the loop device ``"7:N"``; None when it is none, or has nothing behind it."""
    major, _, minor = device.partition(":")
    if int(major) != _LOOP_MAJOR:
        return None
    status = bytearray(_STATUS_BYTES)
    try:
        descriptor = os.open(f"/dev/loop{minor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    encoded, inode = struct.unpack_from("=QQ", status)
    return Backing(_decoded(encoded), inode)


def devices_of(file: Backing) -> list[str]:
    """The loop devices that have the file behind them, as ``/dev/loopN``."""
    names = [each for each in os.listdir("/sys/block") if each.startswith("loop")]
    return [f"/dev/{name}" for name in names if backing(f"{_LOOP_MAJOR}:{name.removeprefix('loop')}") == file]


def _decoded(number: int) -> int:
    """The kernel tells the device as huge_encode_dev does, which is the way of stat for minors that fit."""
    return os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | (number >> 12) & 0xFFF00)


def wait_let_go(device: str, file: Backing | None) -> None:
    """Return when the loop device has ``file`` behind it no more. Raises Busy when somebody else keeps it."""
    until = time.monotonic() + LET_GO_SECONDS
    pause = 0.001
    while file is not None and backing(device) == file:
        if time.monotonic() > until:
            raise Busy(f"the loop device {device} is still in use", hint="See who has it: losetup --list")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def freeze(place: str) -> bool:
    """Write out everything and stop writers at the filesystem mounted at ``place``; False when it was frozen."""
    _syncfs(place)  # writers go on meanwhile: freezing itself finds little left to write
    try:
        _ioctl(place, _FIFREEZE)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def thaw(place: str) -> bool:
    """Let writers go on; False when it was not frozen."""
    try:
        _ioctl(place, _FITHAW)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _syncfs(place: str) -> None:
    with _opened(place) as descriptor:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), place)


def _ioctl(place: str, request: int) -> None:
    with _opened(place) as descriptor:
        fcntl.ioctl(descriptor, request, 0)


@contextmanager
def _opened(place: str) -> Iterator[int]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
