"""Which processes use a mount: descriptors, mappings, working and root directories, in any mount namespace.

Read from /proc without a request to the mounted filesystem itself (which may be the one being stopped).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo (proc(5)): ``device`` is "major:minor"."""

    mount_id: int
    device: str
    path: str


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
        points.append(MountPoint(int(fields[0]), fields[2].decode(), os.fsdecode(path)))
    return points


def device_of(path: str) -> str | None:
    """The device of what is mounted at ``path`` (the topmost), or None when nothing is."""
    at = [point.device for point in mount_points() if point.path == path]
    return at[-1] if at else None


def users_of(device: str, *, but: frozenset[int] = frozenset()) -> list[User]:
    """The processes that use the filesystem ``device``, or have it mounted in a namespace of their own.

    ``but``: pids left out (the servers themselves).
    """
    ours = _namespace("self")
    mounts: dict[str, frozenset[int]] = {}
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in but:
            continue
        namespace = _namespace(entry)
        if namespace not in mounts:
            mounts[namespace] = frozenset(p.mount_id for p in mount_points(entry) if p.device == device)
        ids = mounts[namespace]
        foreign = bool(ids) and namespace != ours
        if foreign or (ids and _uses(entry, ids, device)):
            found.append(User(int(entry), _name(entry)))
    return sorted(found, key=lambda user: user.pid)


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
