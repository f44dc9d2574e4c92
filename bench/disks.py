"""Disk workspaces: untar, git and pip on the host-mounted disk of one, against ext4 on a loop file and the disk itself.

Systems take turns: ``native`` (the disk, noatime), ``ext4_loop`` (a new ext4 in a sparse file on it, through a loop
device), ``cowfs_disk`` (`cowfs disk mount`, the store on the same disk). Each step ends with a sync of that filesystem,
so that what a cache holds is counted. Of the disk workspace also: ``checkpoint_after_untar``, the verb by the API with
writing out, freezing, the checkpoint and thawing, right after 5,000 files were unpacked and not synced;
``checkpoint_again`` after one more file; ``fork``; ``fork_and_mount``, with attaching its filesystem.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import common, daemons, native, programs, systems
from bench.common import Series
from bench.workload import SMALL, Sizes
from cowfs.client.store import Store
from cowfs_cli.disks import making

DISK_BYTES = 2 * 1024**3


@contextlib.contextmanager
def cowfs_disk(directory: Path) -> Iterator[tuple[Path, Store]]:
    """The files of a new disk workspace ``work``, and its store."""
    directory.mkdir()
    daemons.make_store(directory / "store", [])
    with daemons.serving(directory / "store") as client:
        making.make(client, "work", DISK_BYTES, None)
        yield Path(client.disk_mount("work")), client


def steps(root: Path, inputs: Path, series: Series) -> None:
    """Work in ``root``, which is empty of it again afterwards."""

    def synced(script: str) -> None:
        common.shell(f"{script}\nsync -f .", root)

    series.time("untar", synced, f"tar -xf {inputs}/git/first.tar")
    series.time("git_add_commit", synced, "git init -q . && git add -A && git -c gc.auto=0 commit -q -m all")
    pip = f"--no-cache-dir --no-index --find-links {inputs}/pip --quiet --target site --root-user-action=ignore"
    series.time("pip_install", synced, f"{sys.executable} -m pip install {pip} {programs.PROJECT}")
    series.time("rm", synced, "rm -rf tree site .git")


def verbs(root: Path, client: Store, inputs: Path, series: Series) -> None:
    """What only a disk workspace has."""
    work = client.workspace("work")
    common.shell(f"tar -xf {inputs}/git/first.tar", root)
    series.time("checkpoint_after_untar", work.checkpoint, "unpacked", label="unpacked")
    (root / "more").write_bytes(b"x" * 4096)
    series.time("checkpoint_again", work.checkpoint, "again")
    series.time("fork", client.fork, "work@unpacked", "fork")

    def fork_and_mount() -> None:
        client.fork("work@unpacked", "mounted")
        client.disk_mount("mounted")

    series.time("fork_and_mount", fork_and_mount)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="few files, to check the scenario itself")
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    series = {name: Series() for name in (systems.BASE, "ext4_loop", "cowfs_disk")}
    with common.scratch() as directory:
        inputs = directory / "inputs"
        for name, prepare in (("git", programs.prepare_git), ("pip", programs.prepare_pip)):
            (inputs / name).mkdir(parents=True)
            prepare(inputs / name, sizes)
        for _ in range(options.turns):
            where = directory / "turn"
            where.mkdir()
            (where / "native").mkdir()
            with native.noatime(where / "native") as root:
                steps(root, inputs, series["native"])
            with native.loop(where, "ext4", "-q") as root:
                steps(root, inputs, series["ext4_loop"])
            with cowfs_disk(where / "cowfs") as (root, client):
                steps(root, inputs, series["cowfs_disk"])
                verbs(root, client, inputs, series["cowfs_disk"])
            shutil.rmtree(where)
    summaries = {name: one.summaries() for name, one in series.items()}
    results = {"files": sizes.git_files, "systems": summaries, "ratio_to_native": systems.ratios(summaries, {})}
    common.report("disks", results)


if __name__ == "__main__":
    main()
