"""What ``cowfs doctor`` looks at beyond the essentials: limits of the machine, the store's disk, the daemon's log.

Each check yields findings: ``check``, ``ok``, ``detail``, ``hint`` (what to do where it is not ok).
"""

import contextlib
import json
import os
import platform
import resource
from collections.abc import Iterator
from typing import Any

from cowfs_cli.common import clean, plural, size

Finding = dict[str, Any]
DESCRIPTORS_MIN = 4096
DESCRIPTORS_PER_MOUNT = 5
MOUNTS_SPARE = 1000
MEMORY_MIN_BYTES = 512 << 20
INODES_MIN = 10_000
INDEX_BYTES_MAX = 64 << 30
INDEX_SHARE_MAX = 0.8
FEATURES = (
    ((6, 2), "expire-only", "a restore detaches what is mounted inside a workspace"),
    ((6, 9), "resend", "a request that a dead worker had read fails with EIO or waits for ever"),
    ((6, 9), "passthrough", "read-only mounts do not share their page cache"),
    ((6, 12), "idmapped mounts", "a container's user namespace cannot map a workspace's owners"),
)
"""Since which kernel, what, and what is without it."""

BAD_FILESYSTEMS = {"nfs": "locks and syncs are not what they seem", "nfs4": "locks and syncs are not what they seem"}
BAD_FILESYSTEMS |= {"fuse.cowfs": "a store cannot lie in a workspace", "9p": "it has no shared mappings for the index"}
ERRORS = frozenset(("error", "critical"))
LOG_TAIL_BYTES = 256 << 10


def finding(check: str, ok: bool, detail: str, hint: str = "") -> Finding:
    """One line of the report."""
    return {"check": check, "ok": ok, "detail": detail, "hint": hint}


def machine() -> Iterator[Finding]:
    """The limits of this machine and user."""
    release = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2])
    lacking = [f"{name} ({without})" for since, name, without in FEATURES if release < since]
    have = ", ".join(name for since, name, _ in FEATURES if release >= since)
    yield finding("kernel features", True, f"{have or 'none'}; lacking: {', '.join(lacking) or 'nothing'}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard}, about {hard // DESCRIPTORS_PER_MOUNT} mounts"
    hint = "raise the hard limit: ulimit -Hn, LimitNOFILE= of the service"
    yield finding("descriptors", hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS_MIN, f"{soft} to {shown}", hint)
    most, have_mounts = _number("/proc/sys/fs/mount-max"), _mounts()
    if most is not None:
        hint = "sysctl fs.mount-max=1000000"
        yield finding("mounts", most - have_mounts >= MOUNTS_SPARE, f"{have_mounts} of {most}", hint)
    for name, what in (("max_mnt_namespaces", "mount namespaces"), ("max_user_namespaces", "user namespaces")):
        allowed = _number(f"/proc/sys/user/{name}")
        if allowed is not None:
            yield finding(what, allowed > 0, f"at most {allowed}", f"sysctl user.{name}=10000, for sandboxes")
    watches = _number("/proc/sys/fs/inotify/max_user_watches")
    if watches is not None:
        hint = "sysctl fs.inotify.max_user_watches=524288, for programs that watch files in workspaces"
        yield finding("inotify", watches >= 8192, f"at most {plural(watches, 'watch')[:-1]}es a user", hint)
    available = _available_bytes()
    if available is not None:
        hint = "a worker may need 2 GiB for a workspace that is written fast: see docs/operations.md"
        yield finding("memory", available >= MEMORY_MIN_BYTES, f"{size(available)} available", hint)
    yield _cgroup("self", "cgroup")
    if os.geteuid():
        yield _subordinate(os.geteuid())


def _subordinate(uid: int) -> Finding:
    """Whether owners other than root can be shown to an ordinary user; no problem where nobody asks for it."""
    from cowfs.client.subordinate import FILES, grants

    found = grants(uid)
    counts = [sum(count for _, count in ranges) for ranges in (found.users, found.groups)]
    granted = f"{plural(counts[0], 'user')} and {plural(counts[1], 'group')} are granted"
    lacking = [f"{' and '.join(found.missing)} missing (apt install uidmap)"] if found.missing else []
    lacking += [
        f"nothing granted in {path} (as root: usermod --add-{name}s 100000-165535 USER)"
        for path, name, count in zip(FILES, ("subuid", "subgid"), counts, strict=True)
        if not count
    ]
    without = f"; stored owners other than root are shown as 65534: {', '.join(lacking)}" if lacking else ""
    return finding("subordinate ids", True, granted + without)


def _cgroup(pid: str, check: str) -> Finding:
    """In which cgroup a process is, and what that limits."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            own = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError as error:
        return finding(check, True, f"unknown: {error.strerror}")
    path = next((where for _, controllers, where in own if not controllers), "/")
    limits = []
    directory = "/sys/fs/cgroup" + path.rstrip("/")
    for name in ("memory.max", "pids.max"):
        with contextlib.suppress(OSError), open(f"{directory}/{name}") as file:
            value = file.read().strip()
            if value != "max":
                limits.append(f"{name} {value}")
    writable = os.access("/sys/fs/cgroup", os.W_OK)
    detail = f"{path}, {', '.join(limits) or 'no limit'}"
    detail += "" if writable else "; a daemon started here stays in it"
    hint = "start the daemon outside of this cgroup: a server that shares a sandbox's memory limit can wait for ever"
    return finding(check, writable or not limits, detail, hint)


def store(path: str) -> Iterator[Finding]:
    """The disk that a store lies on, its index, and what its daemon has logged."""
    kind = _filesystem(path)
    why = BAD_FILESYSTEMS.get(kind, "")
    yield finding("filesystem", not why, kind + (f": {why}" if why else ""), "move the store to a local disk")
    found = os.statvfs(path)
    if found.f_files:
        yield finding("free inodes", found.f_favail >= INODES_MIN, str(found.f_favail), "remove files on that disk")
    with contextlib.suppress(OSError):
        used = os.stat(os.path.join(path, "index", "data.mdb")).st_blocks * 512
        hint = "the index holds 64 GiB at most: remove snapshots and run cowfs gc, or begin another store"
        detail = f"{size(used)} of {size(INDEX_BYTES_MAX)}"
        yield finding("block index", used < INDEX_SHARE_MAX * INDEX_BYTES_MAX, detail, hint)
    last = last_error(path)
    if last is not None:
        # Not a problem by itself: it may be long past.
        yield finding("last error logged", True, last)


def daemon(status: dict[str, Any]) -> Iterator[Finding]:
    """How a running daemon does."""
    pid = str(status["supervisor"]["pid"])
    yield _cgroup(pid, "daemon's cgroup")
    lag = status.get("lag")
    if lag is not None:
        detail = f"{lag['seconds']:.0f} s behind, {plural(lag['waiting'], 'request')} waiting, {lag['refused']} refused"
        hint = "the settler cannot go on: cowfs daemon log says why, cowfs fsck what is damaged; free some space"
        yield finding("settling", not lag["refused"], detail, hint)


def last_error(path: str) -> str | None:
    """The newest error in the log of a store's daemon."""
    from cowfs.client.place import LOG_NAME, daemon_dir

    newest = None
    for name in (f"{LOG_NAME}.1", LOG_NAME):
        with contextlib.suppress(OSError), open(os.path.join(daemon_dir(path), name), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES, 0))
            for line in file.read().splitlines():
                with contextlib.suppress(ValueError, AttributeError):
                    entry = json.loads(line)
                    if entry.get("level") in ERRORS:
                        newest = f"{entry.get('time', '')} {entry.get('process', '')}: {entry.get('event', '')}"
    return None if newest is None else clean(newest)


def _filesystem(path: str) -> str:
    """The type of the filesystem that a directory lies on."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as lines:
        kinds = [fields[fields.index("-") + 1] for fields in map(str.split, lines) if fields[2] == wanted]
    return kinds[-1] if kinds else "unknown"


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _mounts() -> int:
    with open("/proc/self/mountinfo") as lines:
        return sum(1 for _ in lines)


def _available_bytes() -> int | None:
    with contextlib.suppress(OSError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None
