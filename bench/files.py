"""Working with files: untar, find, reading warm and cold, git add and commit, cp -a, rm -rf; cowfs against the disk.

Systems: ``native`` is a directory on the disk, seen through a noatime bind mount; ``overlayfs`` and ``fuse_overlayfs``
an empty lower directory with its upper one on the disk; ``bindfs`` the disk's directory through libfuse's pass-through
in C; ``cowfs`` a workspace that the real daemon serves, whose store is on the same disk, and ``pyfuse3`` one that is
served through pyfuse3 without a daemon. ``clone_verb`` and ``rm_verb`` are cowfs' own for cp -a and rm -rf, by the API.
Placements: ``pinned``: program and server on CPU 0 alone; ``free``: the scheduler decides. The systems take turns
within every placement. A cold read follows a remount (cowfs: a new daemon, everything settled) and dropped caches.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import common, daemons, native, trees
from bench.common import Series
from cowfs import connect
from cowfs.client.store import WorkspaceHandle

PLACEMENTS: dict[str, Sequence[int] | None] = {"pinned": (0,), "free": None}
READ_ALL = "find tree -type f -print0 | xargs -0 cat"
COMMIT = "git init -q repo && mv tree repo/tree && cd repo && git add -A && git -c gc.auto=0 commit -q -m all"
STEPS = ("untar", "find", "read_warm", "read_cold", "git_add_commit", "copy", "rm")
VERBS = {"clone_verb": "copy", "rm_verb": "rm"}
"""Steps of cowfs alone -> what they are compared with."""


@dataclass(frozen=True, slots=True)
class System:
    """``root``: where to work. ``make_cold()``: what it serves from memory is gone afterwards.

    ``workspace()``: that of cowfs, to ask for its own verbs.
    """

    root: Path
    make_cold: Callable[[], None]
    workspace: Callable[[], WorkspaceHandle] | None = None


def shell(script: str, where: Path) -> None:
    """Run a shell script in ``where``."""
    home = {"HOME": "/nonexistent", "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b", "GIT_COMMITTER_NAME": "b"}
    env = common.environment(**home, GIT_COMMITTER_EMAIL="b@b")
    common.run("sh", "-e", "-c", script, cwd=where, env=env)


def one_turn(system: System, archive: Path, series: Series) -> None:
    """Every step once, in an empty directory that is empty again afterwards."""
    root = system.root
    series.time("untar", shell, f"tar -xf {archive}", root)
    series.time("find", shell, "find tree -size +1000000c", root)
    shell(READ_ALL, root)
    series.time("read_warm", shell, READ_ALL, root)
    series.time("copy", shell, "cp -a tree copy", root)
    shell("rm -rf copy", root)
    if system.workspace is not None:
        workspace = system.workspace()
        series.time("clone_verb", workspace.clone_path, "tree", "clone")
        shell("find clone -size +1000000c", root)
        series.time("rm_verb", workspace.remove_path, "clone")
    series.time("rm", shell, "rm -rf tree", root)
    shell(f"tar -xf {archive}", root)
    series.time("git_add_commit", shell, COMMIT, root)
    shell("mv repo/tree tree", root)
    system.make_cold()
    series.time("read_cold", shell, READ_ALL, root)
    shell("rm -rf tree repo", root)


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
def cowfs_system(directory: Path, cpus: Sequence[int] | None) -> Iterator[System]:
    """A mounted workspace of the real daemon."""
    store = directory / "store"
    directory.mkdir()
    daemons.make_store(store, [])
    with contextlib.ExitStack() as served:
        client = served.enter_context(daemons.serving(store))
        root = Path(client.create("work").path)
        if cpus is not None:
            daemons.pin_workers(client, cpus)

        def make_cold() -> None:
            client.workspace("work").checkpoint("cold")
            daemons.settled(client)
            served.close()
            common.write_back(store)
            common.drop_caches()
            again = served.enter_context(daemons.serving(store))
            assert Path(again.workspace("work").path) == root
            if cpus is not None:
                daemons.pin_workers(again, cpus)

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


SYSTEMS = {
    "native": native_system,
    "overlayfs": overlay_system,
    "fuse_overlayfs": fuse_overlay_system,
    "bindfs": bindfs_system,
    "pyfuse3": pyfuse3_system,
    "cowfs": cowfs_system,
}
NEEDS = {"bindfs": "bindfs", "fuse_overlayfs": "fuse-overlayfs"}


def measure(directory: Path, archive: Path, systems: Sequence[str], place: str, turns: int) -> dict[str, Any]:
    """All systems in turns, in one placement; with the ratio of medians to native."""
    cpus = PLACEMENTS[place]
    series = {name: Series() for name in systems}
    for turn in range(turns):
        for name in systems:
            with SYSTEMS[name](directory / f"{name}-{place}-{turn}", cpus) as system, common.placed(cpus):
                one_turn(system, archive, series[name])
            shutil.rmtree(directory / f"{name}-{place}-{turn}")
    taken = {name: one.seconds for name, one in series.items()}
    ratios = {
        name: {
            step: round(_median(taken[name][step]) / _median(taken["native"][VERBS.get(step, step)]), 2)
            for step in (*STEPS, *VERBS)
            if step in taken[name]
        }
        for name in systems
        if name != "native"
    }
    return {"systems": {name: one.summaries() for name, one in series.items()}, "ratio_to_native": ratios}


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--placements", nargs="*", choices=PLACEMENTS, default=list(PLACEMENTS))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()
    lacking = {name: f"{NEEDS[name]} is not installed" for name in NEEDS if native.missing(NEEDS[name])}
    systems = [name for name in options.systems if name not in lacking]
    results: dict[str, Any] = {"files": options.files, "placements": {}}
    if systems != options.systems:
        results["skipped"] = lacking
    with common.scratch() as directory:
        size = trees.small_files(directory / "source" / "tree", options.files)
        archive = directory / "files.tar"
        common.run("tar", "-C", directory / "source", "-cf", archive, "tree")
        shutil.rmtree(directory / "source")
        results["bytes"] = size
        for place in options.placements:
            results["placements"][place] = measure(directory, archive, systems, place, options.turns)
    common.report("files", results)


if __name__ == "__main__":
    main()
