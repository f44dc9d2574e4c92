"""Filesystems to compare with, mounted in a scratch directory and taken away again, whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import common

LOOP_BYTES = 2 * 1024**3


@contextlib.contextmanager
def mounted(path: Path, *arguments: str | Path) -> Iterator[Path]:
    """``mount ARGUMENTS path``."""
    path.mkdir(parents=True, exist_ok=True)
    common.run("mount", *arguments, path)
    try:
        yield path
    finally:
        umount(path)


def umount(path: Path) -> None:
    """Unmount, by force if need be."""
    if subprocess.run(["umount", path], stderr=subprocess.DEVNULL, check=False).returncode:
        common.run("umount", "--lazy", path)


@contextlib.contextmanager
def loop(directory: Path, kind: str, *options: str) -> Iterator[Path]:
    """A new filesystem of ``kind`` (btrfs, xfs, ext4) in a sparse file, mounted noatime. umount frees the device."""
    image = directory / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(LOOP_BYTES)
    common.run(f"mkfs.{kind}", *options, image)
    try:
        with mounted(directory / kind, "-o", "loop,noatime", image) as path:
            yield path
    finally:
        image.unlink()


@contextlib.contextmanager
def noatime(directory: Path) -> Iterator[Path]:
    """``directory`` seen without updates of access times: a bind mount of itself."""
    with mounted(directory, "--bind", directory):
        common.run("mount", "-o", "remount,bind,noatime", directory)
        yield directory


@contextlib.contextmanager
def bindfs(source: Path, path: Path) -> Iterator[Path]:
    """``source`` passed through by bindfs (libfuse, C). The server runs where this thread may run."""
    path.mkdir(parents=True, exist_ok=True)
    common.run("bindfs", "-o", "noatime", source, path)
    try:
        yield path
    finally:
        umount(path)


def missing(*commands: str) -> list[str]:
    """Those commands that this machine lacks."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [command for command in commands if shutil.which(command, path=search) is None]
