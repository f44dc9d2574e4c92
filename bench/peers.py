"""What others take for the verbs, as whole processes: btrfs, XFS reflinks, overlayfs, cp, rsync; btrfs by ioctl, too.

All work on copies of one tree of small files, in turns. btrfs and XFS are loop filesystems on the same disk. An
``idle`` snapshot is of an unchanged subvolume; a ``durable`` one follows a 4 KiB change, and waits for the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import common, native, trees
from bench.common import Series

CHANGES = 100
_SNAP_CREATE_V2 = 0x50009417  # BTRFS_IOC_SNAP_CREATE_V2, linux/btrfs.h
_SNAP_ARGUMENTS = struct.Struct("<QQQ32x4040s")


def snapshot_ioctl(source: Path, directory: Path, name: str) -> None:
    """``btrfs subvolume snapshot`` without the process."""
    with _directory(source) as fd, _directory(directory) as parent:
        fcntl.ioctl(parent, _SNAP_CREATE_V2, bytearray(_SNAP_ARGUMENTS.pack(fd, 0, 0, name.encode())))


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def overwrite(root: Path, count: int, turn: int) -> None:
    """Put 4 KiB in place of ``count`` files' content."""
    paths = sorted(path for path in root.rglob("*.py"))
    for path in paths[:: max(1, len(paths) // count)][:count]:
        path.write_bytes((b"%d " % turn).ljust(4096, b"x"))


def btrfs(directory: Path, source: Path, turns: int, series: Series) -> None:
    """Snapshots of a subvolume."""
    with native.loop(directory, "btrfs", "-q") as root:
        work = root / "work"
        common.run("btrfs", "subvolume", "create", work)
        common.run("cp", "-a", source, work / "tree")
        common.run("btrfs", "filesystem", "sync", root)
        file = next((work / "tree").rglob("*.py"))

        def durable(target: Path) -> None:
            common.run("btrfs", "subvolume", "snapshot", work, target)
            common.run("btrfs", "filesystem", "sync", root)

        for turn in range(turns):
            series.time("btrfs_snapshot_idle", common.run, "btrfs", "subvolume", "snapshot", work, root / f"c{turn}")
            series.time("btrfs_snapshot_idle_ioctl", snapshot_ioctl, work, root, f"i{turn}")
            file.write_bytes((b"%d " % turn).ljust(4096, b"x"))
            series.time("btrfs_snapshot_durable", durable, root / f"d{turn}")


def xfs(directory: Path, source: Path, turns: int, series: Series) -> None:
    """A reflinked copy."""
    with native.loop(directory, "xfs", "-q") as root:
        common.run("cp", "-a", source, root / "tree")
        for turn in range(turns):
            copy = root / f"copy{turn}"
            series.time("xfs_reflink_copy", common.run, "cp", "-a", "--reflink=always", root / "tree", copy)


def overlay(directory: Path, source: Path, turns: int, series: Series) -> None:
    """An overlayfs on the tree, as container runtimes make them; not durable, and cannot go back in place."""
    for turn in range(turns):
        upper, work, merged = (directory / f"{kind}{turn}" for kind in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            path.mkdir()
        options = f"lowerdir={source},upperdir={upper},workdir={work}"
        series.time("overlay_mount", common.run, "mount", "-t", "overlay", "overlay", "-o", options, merged)
        native.umount(merged)


def copies(directory: Path, source: Path, turns: int, series: Series) -> None:
    """A plain copy, and rsync as a restore of 100 changed files."""
    work, copy = directory / "rsync", directory / "copy"
    common.run("cp", "-a", source, work)
    for turn in range(turns):
        series.time("cp", common.run, "cp", "-a", source, copy)
        shutil.rmtree(copy)
        overwrite(work, CHANGES, turn)
        series.time("rsync_restore_100_changes", common.run, "rsync", "-a", "--delete", f"{source}/", f"{work}/")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    series = Series()
    skipped: dict[str, str] = {}
    results: dict[str, Any] = {"files": options.files, "commands": {}, "skipped": skipped}
    peers = ((btrfs, ("mkfs.btrfs", "btrfs")), (xfs, ("mkfs.xfs",)), (overlay, ("mount",)), (copies, ("rsync",)))
    with common.scratch() as directory:
        source = directory / "source"
        results["bytes"] = trees.small_files(source, options.files)
        for measure, commands in peers:
            if lacking := native.missing(*commands):
                skipped[measure.__name__] = f"not installed: {', '.join(lacking)}"
            else:
                measure(directory, source, options.turns, series)
        results["commands"] = series.summaries()
    common.report("peers", results)


if __name__ == "__main__":
    main()
