"""Where a daemon started on demand must not stay or start: in a sandbox's cgroup, in a sandbox's mount namespace."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from cowfs.errors import Invalid

log = logging.getLogger("cowfs.surroundings")
CGROUPS = Path("/sys/fs/cgroup")
GROUP = "cowfs"
KEEPER_OOM, SUPERVISOR_OOM, WORKER_OOM = -900, -500, -500
"""How the kernel chooses when memory runs out (-1000 never, 1000 first): see docs/concurrency.md."""

_HINT = "start the daemon outside of the sandbox first: cowfs daemon start"


def set_oom_score(score: int) -> None:
    """Set the chance of this process to be killed when memory runs out; only the superuser may lower it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


def refuse_sandbox(mounts: str = "/proc/self/mountinfo", proc: str = "/proc") -> None:
    """Raises Invalid where what a daemon mounts would be seen by the sandbox alone.

    That is below a cowfs mount as root, and in another mount namespace than the machine's first process (where that
    can be seen: it is root's to see).
    """
    with open(mounts) as lines:
        for line in lines:
            fields = line.split()
            kind = fields[fields.index("-") + 1]
            if fields[4] == "/" and kind == "fuse.cowfs":
                raise Invalid("no daemon is started inside a workspace: / is one", hint=_HINT)
    with contextlib.suppress(OSError):
        if os.readlink(f"{proc}/1/ns/mnt") != os.readlink(f"{proc}/self/ns/mnt"):
            raise Invalid(
                "no daemon is started in a mount namespace of its own: nobody else would see its mounts",
                hint=f"{_HINT}; or, if this is meant: cowfs daemon run",
            )


def leave_cgroup(root: Path = CGROUPS, own: str = "/proc/self/cgroup") -> list[str]:
    """Go to a cgroup of the daemon's own, in the unified hierarchy and in that for memory; the directories.

    A server in the memory cgroup of its clients can wait for ever for memory that only it can free. Where cgroups are
    not writable, it stays.
    """
    entered = []
    for line in Path(own).read_text().splitlines():
        _, controllers, _ = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        hierarchy = root / controllers if controllers else root
        if not controllers and not (hierarchy / "cgroup.procs").exists():
            hierarchy = root / "unified"  # beside version 1
        group = hierarchy / GROUP
        try:
            with contextlib.suppress(FileExistsError):
                group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            log.info("no cgroup of our own below %s: %s", hierarchy, error.strerror)
            continue
        entered.append(str(group))
    return entered
