"""The systems that files are worked with on: the disk itself, cowfs, and what others put in front of the disk.

``native`` is a directory on the disk, seen through a noatime bind mount; ``overlayfs`` and ``fuse_overlayfs`` an empty
lower directory with its upper one on the disk; ``bindfs`` the disk's directory through libfuse's pass-through in C;
``cowfs`` a workspace that the real daemon serves, whose store is on the same disk, and ``pyfuse3`` one that is served
through pyfuse3 without a daemon; ``cowfs_compiled`` as ``cowfs``, by the daemon of the compiled wheel that ``make
compiled`` has installed. Placements: ``pinned``: program and server, with every process that it has, on CPU 0
alone; ``free``: the scheduler decides. A system is made in a directory of its own, which it leaves for its user to
remove.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import common, daemons, native
from cowfs import connect
from cowfs.client.store import WorkspaceHandle

PLACEMENTS: dict[str, Sequence[int] | None] = {"pinned": (0,), "free": None}
BASE = "native"
"""What all others are compared with."""

COMPILED = common.REPOSITORY / "build" / "compiled" / "venv" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class System:
    """``root``: where to work. ``make_cold()``: what it serves from memory is gone afterwards.

    ``workspace()``: that of cowfs, to ask for its own verbs.
    """

    root: Path
    make_cold: Callable[[], None]
    workspace: Callable[[], WorkspaceHandle] | None = None


@contextlib.contextmanager
def native_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """The disk itself."""
    del cpus  # there is no server
    directory.mkdir()
    with native.noatime(directory) as root:

        def make_cold() -> None:
            common.write_back(root)
            common.drop_caches()

        yield System(root, make_cold)


@contextlib.contextmanager
def overlay_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """overlayfs on the disk, as container runtimes use it."""
    del cpus
    with _overlay(directory, "mount", "-t", "overlay", "overlay") as system:
        yield system


@contextlib.contextmanager
def fuse_overlay_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """fuse-overlayfs on the disk, as rootless container tools use it."""
    with common.placed(cpus), _overlay(directory, "fuse-overlayfs") as system:
        yield system


@contextlib.contextmanager
def _overlay(directory: Path, *mount: str) -> Iterator[System]:
    lower, upper, work, merged = (directory / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},noatime"
    common.run(*mount, "-o", options, merged)
    try:

        def make_cold() -> None:
            native.umount(merged)
            common.write_back(upper)
            common.drop_caches()
            common.run(*mount, "-o", options, merged)

        yield System(merged, make_cold)
    finally:
        native.umount(merged)


@contextlib.contextmanager
def bindfs_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """bindfs in front of the disk."""
    below, root = directory / "below", directory / "bindfs"
    below.mkdir(parents=True)
    with contextlib.ExitStack() as stack, common.placed(cpus):
        stack.enter_context(native.noatime(below))
        served = stack.enter_context(contextlib.ExitStack())
        served.enter_context(native.bindfs(below, root))

        def make_cold() -> None:
            served.close()
            common.write_back(below)
            common.drop_caches()
            with common.placed(cpus):
                served.enter_context(native.bindfs(below, root))

        yield System(root, make_cold)


@contextlib.contextmanager
def cowfs_system(directory: Path, cpus: Sequence[int] | None, python: Path | None = None) -> Iterator[System]:
    """A mounted workspace of the real daemon, of another environment's where ``python`` is that of one."""
    store = directory / "store"
    directory.mkdir()
    daemons.make_store(store, [])
    with contextlib.ExitStack() as served:
        client = served.enter_context(daemons.serving(store, cpus, python))
        root = Path(client.create("work").path)

        def make_cold() -> None:
            client.workspace("work").checkpoint("cold")
            daemons.settled(client)
            served.close()
            common.write_back(store)
            common.drop_caches()
            again = served.enter_context(daemons.serving(store, cpus, python))
            assert Path(again.workspace("work").path) == root

        def workspace() -> WorkspaceHandle:
            found: WorkspaceHandle = connect(store).workspace("work")
            return found

        yield System(root, make_cold, workspace)


@contextlib.contextmanager
def pyfuse3_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """A workspace that pyfuse3 serves in the foreground."""
    store, root = directory / "store", directory / "mnt"
    directory.mkdir()
    daemons.make_store(store, [])
    with daemons.serving(store) as client:
        client.create("work")
    with contextlib.ExitStack() as served:
        served.enter_context(daemons.foreground(store, "work", root, cpus))

        def make_cold() -> None:
            served.close()
            common.write_back(store)
            common.drop_caches()
            served.enter_context(daemons.foreground(store, "work", root, cpus))

        yield System(root, make_cold)


SYSTEMS: dict[str, Callable[[Path, Sequence[int] | None], contextlib.AbstractContextManager[System]]] = {
    "native": native_system,
    "overlayfs": overlay_system,
    "fuse_overlayfs": fuse_overlay_system,
    "bindfs": bindfs_system,
    "pyfuse3": pyfuse3_system,
    "cowfs": cowfs_system,
    "cowfs_compiled": functools.partial(cowfs_system, python=COMPILED),
}
NEEDS = {"bindfs": "bindfs", "fuse_overlayfs": "fuse-overlayfs"}


def lacking(names: Sequence[str]) -> dict[str, str]:
    """Those of the systems that cannot be made here -> why."""
    reasons = {
        name: f"{NEEDS[name]} is not installed" for name in names if name in NEEDS and native.missing(NEEDS[name])
    }
    if "pyfuse3" in names and importlib.util.find_spec("pyfuse3") is None:
        reasons["pyfuse3"] = "the Python package pyfuse3 is not installed"
    if "cowfs_compiled" in names and not COMPILED.exists():
        reasons["cowfs_compiled"] = "there is no compiled wheel (make compiled)"
    return reasons


def ratios(
    summaries: Mapping[str, Mapping[str, Mapping[str, float]]], instead_of: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """System -> step -> its median over that of ``native``; ``instead_of``: steps compared with another one."""
    base = summaries.get(BASE, {})
    return {
        name: {
            step: round(one["median_ms"] / base[known]["median_ms"], 2)
            for step, one in steps.items()
            if (known := instead_of.get(step, step)) in base
        }
        for name, steps in summaries.items()
        if name != BASE
    }
