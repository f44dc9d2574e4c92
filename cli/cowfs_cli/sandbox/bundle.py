"""An OCI runtime bundle: the config.json with which runc, crun and the like run a program in a workspace.

https://github.com/opencontainers/runtime-spec, version 1.0.2.
"""

from __future__ import annotations

import os
from typing import Any, Final

from cowfs_cli.sandbox.bubblewrap import CAPABILITIES, PATH, Sandbox

VERSION: Final = "1.0.2"
MOUNT_POINTS: Final = ("/proc", "/dev", "/sys", "/run", "/tmp")

_MOUNTS: Final = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/run", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=755")),
)
_MASKED: Final = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def config(
    box: Sandbox, command: list[str], *, terminal: bool, set_id: bool = False, devices: bool = False
) -> dict[str, Any]:
    """The bundle's configuration: ``command`` in ``box``, as root of a user namespace for an ordinary user.

    ``set_id``: set-id programs of the workspace work inside; ``devices``: its device nodes do.
    """
    rootless = os.geteuid() != 0
    capabilities = [f"CAP_{each}" for each in CAPABILITIES]
    variables = {"PATH": PATH, "HOME": "/root", "TERM": "xterm"} | box.environment
    namespaces = ["pid", "ipc", "uts", "mount"] + ([] if box.host_network else ["network"])
    linux: dict[str, Any] = {"maskedPaths": list(_MASKED), "readonlyPaths": list(_READ_ONLY)}
    if rootless:
        namespaces.append("user")
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": devices, "access": "rw" if devices else "rwm"}]}
    linux["namespaces"] = [{"type": each} for each in namespaces]
    opened = {"hooks": {"createContainer": [_remount(box.root, set_id, devices)]}} if set_id or devices else {}
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": box.workdir,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": not set_id,
        },
        "root": {"path": box.root, "readonly": False},
        "hostname": box.hostname,
        "mounts": _mounts(box, rootless),
        "linux": linux,
        **opened,
    }


def _remount(root: str, set_id: bool, devices: bool) -> dict[str, Any]:
    """A hook in the container's mount namespace: outside of it, the workspace stays nosuid and nodev."""
    flags = ",".join(("suid" if set_id else "nosuid", "dev" if devices else "nodev", "rw", "noatime"))
    return {"path": "/bin/mount", "args": ["mount", "-o", f"remount,bind,{flags}", root], "env": [f"PATH={PATH}"]}


def _mounts(box: Sandbox, rootless: bool) -> list[dict[str, Any]]:
    mounts = [_mount(*each) for each in _MOUNTS]
    if rootless:  # sysfs can be mounted by the owner of the network namespace alone
        mounts.append(_mount("/sys", "none", "/sys", ("rbind", "nosuid", "noexec", "nodev", "ro")))
    else:
        mounts.append(_mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")))
    mounts += [_mount(path, "tmpfs", "tmpfs", ("nosuid", "nodev")) for path in box.memory]
    mounts += [_mount(path, "none", outside, ("bind", "nosuid", "nodev")) for path, outside in box.kept]
    return mounts


def _mount(path: str, kind: str, source: str, options: tuple[str, ...]) -> dict[str, Any]:
    return {"destination": path, "type": kind, "source": source, "options": list(options)}
