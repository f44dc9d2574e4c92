"""Mounting and unmounting without root, by fusermount3: libfuse's set-id program for ordinary users."""

from __future__ import annotations

import array
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Final

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound

_NAMES: Final = ("fusermount3", "fusermount")
_COMMFD: Final = "_FUSE_COMMFD"
_TIMEOUT_S: Final = 30.0
CONFIGURATION: Final = "/etc/fuse.conf"


def program() -> str | None:
    """Where fusermount3 is; None: it is not installed."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def others_allowed() -> bool:
    """Whether this machine lets users show their mounts to others (user_allow_other in /etc/fuse.conf)."""
    try:
        with open(CONFIGURATION, encoding="utf-8", errors="replace") as file:
            return any(line.split("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def mount(mountpoint: str, options: Sequence[str]) -> int:
    """Mount on the existing directory ``mountpoint``; a descriptor of /dev/fuse, blocking, on which INIT waits.

    Raises :class:`Invalid` when fusermount3 is missing or refuses, :class:`NotFound` for a missing mount point.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(_TIMEOUT_S)
        words = [_program(), "-o", ",".join(options), "--", mountpoint]
        said = _run(words, {_COMMFD: str(theirs.fileno())}, (theirs.fileno(),))
        theirs.close()
        if said:
            raise _refused(mountpoint, said)
        received = array.array("i")
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(received.itemsize))
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
    if len(received) != 1:
        raise Invalid(f"{mountpoint}: fusermount3 mounted nothing")
    os.set_inheritable(received[0], False)
    return received[0]


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """Unmount, or detach from the tree at once with ``lazy``. Nothing mounted there is fine.

    Raises :class:`Busy` when in use and not ``lazy``, :class:`Invalid` otherwise.
    """
    said = _run([_program(), "-u", *(["-z"] if lazy else []), "--", mountpoint])
    if not said or "not found in" in said or "not mounted" in said or "Invalid argument" in said:
        return
    if "busy" in said:
        raise Busy(f"{mountpoint}: in use", hint="stop what uses it (see fuser -vm), or force")
    raise Invalid(f"{mountpoint}: cannot unmount: {said}", hint="run as the user who mounted it")


def _program() -> str:
    found = program()
    if found is None:
        raise Invalid(
            "mounting without root needs fusermount3, which is not here",
            hint="install it (Debian, Ubuntu: apt install fuse3), or run as root",
        )
    return found


def _run(words: list[str], variables: dict[str, str] | None = None, descriptors: tuple[int, ...] = ()) -> str:
    """What it says when it fails; empty when it does not. Raises :class:`Invalid` when it cannot be run."""
    environment = {"PATH": os.defpath, "LC_ALL": "C", **(variables or {})}
    try:
        done = subprocess.run(
            words, env=environment, pass_fds=descriptors, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise Invalid(f"{words[0]} cannot be run: {error}") from error
    if not done.returncode:
        return ""
    said = re.sub(r"^fusermount3?: ", "", done.stderr.decode(errors="replace").strip())
    return said or f"fusermount3 ended with {done.returncode}"


def _refused(mountpoint: str, said: str) -> CowfsError:
    if "No such file" in said:
        return NotFound(f"{mountpoint}: cannot mount: {said}")
    if "not empty" in said:
        return Conflict(f"{mountpoint}: cannot mount: {said}")
    if "too many" in said:
        return Invalid(
            f"{mountpoint}: cannot mount: {said}", hint=f"unmount some, or raise mount_max in {CONFIGURATION}"
        )
    if "/dev/fuse" in said or "modprobe" in said:
        return Invalid(
            f"{mountpoint}: cannot mount: {said}",
            hint="load the fuse module, and give this user access to /dev/fuse (in a container: --device /dev/fuse)",
        )
    if "Operation not permitted" in said or "Permission denied" in said:
        return Invalid(
            f"{mountpoint}: cannot mount: {said}",
            hint="fusermount3 must be set-uid root, the mount point must be yours, and set-id programs allowed",
        )
    return Invalid(f"{mountpoint}: cannot mount: {said}", hint="see `cowfs doctor`")
