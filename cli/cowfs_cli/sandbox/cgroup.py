"""A control group for one sandbox: limits of memory, processors and processes, and freezing it.

Both versions: one hierarchy for everything (v2), or one for each controller (v1). The daemon is in neither: a process
that serves a mount and one that writes to it must not share a memory limit, or both wait for each other for ever.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowfs.errors import Busy, Invalid

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 100_000
"""In which the share of the processors is counted."""

WAIT_SECONDS: Final = 5.0
_SWAP: Final = ("memory.swap.max", "memory.memsw.limit_in_bytes")


@dataclass(frozen=True)
class Limits:
    """``memory`` in bytes, ``cpus`` as 1.5, ``pids``: processes and threads; None: no limit."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def any(self) -> bool:
        """Whether there is one."""
        return any(each is not None for each in (self.memory, self.cpus, self.pids))


class Group:
    """A new group; :meth:`close` removes it with whatever is left in it.

    Raises Invalid when this user may make none, or the machine has no such controller.
    """

    def __init__(self, limits: Limits, *, freezer: bool) -> None:
        name = f"cowfs-run-{secrets.token_hex(6)}"
        self._unified = (ROOT / "cgroup.controllers").exists()
        self._parts: dict[str, Path] = {}
        try:
            for controller, files in _settings(limits, self._unified, freezer).items():
                self._add(controller, name, files)
        except OSError as error:
            self.close()
            raise Invalid(
                f"limits cannot be set: {error.strerror}: {error.filename}",
                hint="Limits and --freeze need root, and the controllers memory, cpu, pids and freezer of the kernel.",
            ) from error

    def _add(self, controller: str, name: str, files: dict[str, str]) -> None:
        if self._unified:
            if controller in ("memory", "cpu", "pids"):
                (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
            part = ROOT / name
        else:
            part = ROOT / controller / name
        if part not in self._parts.values():
            part.mkdir()
        self._parts[controller] = part
        for file, text in files.items():
            if file not in _SWAP or (part / file).exists():  # a kernel need not count swap
                (part / file).write_text(text)

    def words(self, command: list[str]) -> list[str]:
        """The command line that enters the group, and then is ``command``."""
        files = sorted({str(part / "cgroup.procs") for part in self._parts.values()})
        enter = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@"'
        return ["/bin/sh", "-c", enter, "sh", *files, "--", *command]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the group runs within the context. Raises Busy when it cannot be stopped."""
        try:
            self._freeze(True)
            yield
        finally:
            self._freeze(False)

    def _freeze(self, on: bool) -> None:
        part = self._parts["freezer"]
        if self._unified:
            (part / "cgroup.freeze").write_text("1" if on else "0")
            wanted, state = f"frozen {int(on)}", part / "cgroup.events"
        else:
            (part / "freezer.state").write_text("FROZEN" if on else "THAWED")
            wanted, state = "FROZEN" if on else "THAWED", part / "freezer.state"
        until = time.monotonic() + WAIT_SECONDS
        while wanted not in state.read_text():
            if time.monotonic() > until:
                raise Busy("the sandbox cannot be frozen: a program waits for its files")
            time.sleep(0.002)

    def close(self) -> None:
        """Remove it; what still runs in it is killed."""
        until = time.monotonic() + WAIT_SECONDS
        for part in set(self._parts.values()):
            while part.exists():
                with suppress(OSError):
                    part.rmdir()
                    break
                if time.monotonic() > until:
                    return
                with suppress(OSError):
                    for pid in (part / "cgroup.procs").read_text().split():
                        os.kill(int(pid), 9)
                time.sleep(0.01)


def _settings(limits: Limits, unified: bool, freezer: bool) -> dict[str, dict[str, str]]:
    """Controller -> file -> what to write."""
    found: dict[str, dict[str, str]] = {}
    if limits.memory is not None:
        size = str(limits.memory)
        found["memory"] = (
            {"memory.max": size, _SWAP[0]: "0"} if unified else {"memory.limit_in_bytes": size, _SWAP[1]: size}
        )
    if limits.cpus is not None:
        quota = max(int(limits.cpus * PERIOD_US), 1000)
        found["cpu"] = (
            {"cpu.max": f"{quota} {PERIOD_US}"}
            if unified
            else {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}
        )
    if limits.pids is not None:
        found["pids"] = {"pids.max": str(limits.pids)}
    if freezer:
        found["freezer"] = {}
    return found
