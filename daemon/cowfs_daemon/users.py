"""Which processes use a mount: descriptors, mappings, working and root directories, in any mount namespace.

Read from /proc without a request to the mounted filesystem itself (which may be the one being stopped).
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

GRACE_SECONDS = 0.25
NAMED_MAX = 8
"""Processes that a message names."""


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo (proc(5)): ``device`` is "major:minor"; ``peers`` are the numbers of the groups that it
    shares mounts with, or receives them from."""

    mount_id: int
    device: str
    path: str
    peers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses a mount; ``name`` is its comm."""

    pid: int
    name: str


def mount_points(pid: str = "self") -> list[MountPoint]:
    """What is mounted in the namespace of ``pid``; empty when it is gone or not ours to look at."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        fields = line.split(b" ")
        path = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
        options = fields[6 : fields.index(b"-", 6)]
        peers = frozenset(option.partition(b":")[2].decode() for option in options if b":" in option)
        points.append(MountPoint(int(fields[0]), fields[2].decode(), os.fsdecode(path), peers))
    return points


def mounted_at(path: str) -> MountPoint | None:
    """What is mounted at ``path`` (the topmost), or None."""
    at = [point for point in mount_points() if point.path == path]
    return at[-1] if at else None


def other_places(mount: MountPoint) -> list[str]:
    """Where else in this namespace the filesystem of ``mount`` is mounted."""
    return [each.path for each in mount_points() if each.device == mount.device and each.mount_id != mount.mount_id]


def users_of(mount: MountPoint, *, but: frozenset[int] = frozenset()) -> list[User]:
    """The processes that use the filesystem of ``mount``, or have it mounted in a namespace of their own.

    A mount there that came by propagation does not count: it goes as it came. ``but``: pids left out (the servers
    themselves).
    """
    # Mount ids are the kernel's own, the same in every namespace that can see them.
    ours = {each.mount_id for each in mount_points()}
    mounts: dict[str, list[MountPoint]] = {}
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in but:
            continue
        namespace = _namespace(entry) or entry
        if namespace not in mounts:
            mounts[namespace] = [each for each in mount_points(entry) if each.device == mount.device]
        there = mounts[namespace]
        foreign = [each for each in there if each.mount_id not in ours]
        own = any(each.path != mount.path or not each.peers & mount.peers for each in foreign)
        if own or (there and _uses(entry, frozenset(each.mount_id for each in there), mount.device)):
            found.append(User(int(entry), _name(entry)))
    return sorted(found, key=lambda user: user.pid)


def lasting_users_of(mount: MountPoint, *, but: frozenset[int] = frozenset()) -> list[User]:
    """Those of :func:`users_of` that are still there after :data:`GRACE_SECONDS`.

    A sandbox that is just being started, of any workspace, has a copy of every mount for a moment.
    """
    until = time.monotonic() + GRACE_SECONDS
    users = users_of(mount, but=but)
    while users and time.monotonic() < until:
        time.sleep(GRACE_SECONDS / 5)
        later = {user.pid for user in users_of(mount, but=but)}
        users = [user for user in users if user.pid in later]
    return users


def openers(device: int, inode: int, *, but: frozenset[int] = frozenset()) -> list[User]:
    """The processes with a descriptor of the file ``inode`` on ``device`` (as in stat), in any mount namespace."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in but:
            continue
        mounts = frozenset(each.mount_id for each in mount_points(entry) if each.device == wanted)
        if mounts and any(number == inode and mount in mounts for mount, number in _open_files(entry)):
            found.append(User(int(entry), _name(entry)))
    return sorted(found, key=lambda user: user.pid)


def named(users: list[User]) -> str:
    """Some of them, for a message."""
    text = ", ".join(f"{user.pid} ({user.name})" for user in users[:NAMED_MAX])
    return text + (f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else "")


def _open_files(pid: str) -> Iterator[tuple[int, int]]:
    """(mount id, inode) of each descriptor of ``pid``, as proc(5) has them in fdinfo."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return
    for descriptor in descriptors:
        with suppress(OSError, KeyError), open(f"/proc/{pid}/fdinfo/{descriptor}", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read(4096).splitlines() if b":" in line)
            yield int(fields[b"mnt_id"]), int(fields[b"ino"])


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().strip().decode(errors="replace")
    except OSError:
        return "?"


def _uses(pid: str, mount_ids: frozenset[int], device: str) -> bool:
    if any(mount_id in mount_ids for mount_id in _open_mounts(pid)):
        return True
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return any(_map_device(line) == device for line in file)
    except OSError:
        return False


def _map_device(line: bytes) -> str:
    """The device column of a line of maps, which is in hexadecimal, as "major:minor"."""
    major, _, minor = line.split(None, 4)[3].partition(b":")
    return f"{int(major, 16)}:{int(minor, 16)}"


def _open_mounts(pid: str) -> Iterator[int]:
    """Mount ids of the descriptors, the working directory and the root of ``pid``."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        descriptors = []
    for descriptor in descriptors:
        yield from _mount_id(f"/proc/{pid}/fdinfo/{descriptor}")
    for link in ("cwd", "root"):
        try:
            # Following a /proc link with O_PATH walks no path and asks the filesystem nothing.
            opened = os.open(f"/proc/{pid}/{link}", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            yield from _mount_id(f"/proc/self/fdinfo/{opened}")
        finally:
            os.close(opened)


def _mount_id(fdinfo: str) -> Iterator[int]:
    try:
        with open(fdinfo, "rb") as file:
            for line in file:
                if line.startswith(b"mnt_id:"):
                    yield int(line[7:])
    except OSError:
        return
