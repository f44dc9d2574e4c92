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

import common
import native
import trees
from common import Series

CHANGES = 100
_SNAP_CREATE_V2 = 0x50009417  # BTRFS_IOC_SNAP_CREATE_V2, linux/btrfs.h
_SNAP_ARGUMENTS = struct.Struct("<QQQ32x4040s")
_SNAP_ARGUMENTS_BYTES = 4096


def snapshot_ioctl(source: Path, directory: Path, name: str) -> None:
    """``btrfs subvolume snapshot`` without the process."""
    with _directory(source) as fd, _directory(directory) as parent:
        arguments = _SNAP_ARGUMENTS.pack(fd, 0, 0, name.encode()).ljust(_SNAP_ARGUMENTS_BYTES, b"\0")
        fcntl.ioctl(parent, _SNAP_CREATE_V2, arguments)


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
        for turn in range(turns):
            clean, dirty, direct = root / f"c{turn}", root / f"d{turn}", root / f"i{turn}"

            def durable(target: Path = dirty) -> None:
                common.run("btrfs", "subvolume", "snapshot", work, target)
                common.run("btrfs", "filesystem", "sync", root)

            series.time("btrfs_snapshot_idle", lambda c=clean: common.run("btrfs", "subvolume", "snapshot", work, c))  # type: ignore[misc]
            series.time("btrfs_snapshot_idle_ioctl", lambda d=direct: snapshot_ioctl(work, root, d.name))  # type: ignore[misc]
            file.write_bytes((b"%d " % turn).ljust(4096, b"x"))
            series.time("btrfs_snapshot_durable", durable)


def xfs(directory: Path, source: Path, turns: int, series: Series) -> None:
    """A reflinked copy."""
    with native.loop(directory, "xfs", "-q") as root:
        common.run("cp", "-a", source, root / "tree")
        for turn in range(turns):
            copy = root / f"copy{turn}"
            series.time("xfs_reflink_copy", lambda c=copy: common.run("cp", "-a", "--reflink=always", root / "tree", c))  # type: ignore[misc]


def overlay(directory: Path, source: Path, turns: int, series: Series) -> None:
    """An overlayfs on the tree, as container runtimes make them; not durable, and a lower one cannot be restored."""
    for turn in range(turns):
        upper, work, merged = (directory / f"{kind}{turn}" for kind in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            path.mkdir()
        options = f"lowerdir={source},upperdir={upper},workdir={work}"
        series.time(
            "overlay_mount",
            lambda o=options, m=merged: common.run("mount", "-t", "overlay", "overlay", "-o", o, m),  # type: ignore[misc]
        )
        native.umount(merged)


def copies(directory: Path, source: Path, turns: int, series: Series) -> None:
    """A plain copy, and rsync as a restore of 100 changed files."""
    work = directory / "rsync"
    common.run("cp", "-a", source, work)
    for turn in range(turns):
        copy = directory / "copy"
        series.time("cp", lambda: common.run("cp", "-a", source, directory / "copy"))
        shutil.rmtree(copy)
        overwrite(work, CHANGES, turn)
        series.time(
            "rsync_restore_100_changes", lambda: common.run("rsync", "-a", "--delete", f"{source}/", f"{work}/")
        )


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
