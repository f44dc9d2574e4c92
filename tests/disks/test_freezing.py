"""A filesystem on a disk stands still within ``frozen``, and never for longer than it may."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cowfs_daemon.disks import SUFFIX, Disks
from cowfs_daemon.fuse.mount import unmount
from cowfs_daemon.loops import attach, freeze, thaw
from cowfs_daemon.users import mounted_at


class OnePath:
    """Mounts with one workspace ``vm`` at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def path_of(self, name: str) -> str | None:
        """See MountsLike."""
        return self._path if name == "vm" else None


class OneDisk(Disks):
    """Its disk counts as attached, although no cowfs is below it."""

    def is_attached(self, ref: str) -> bool:
        return ref == "vm"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """A mounted ext4 filesystem, where the disk of a workspace at the path without the suffix would be."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    made = str(tmp_path / "vm") + SUFFIX
    os.mkdir(made)
    with image.open("r+b") as file:
        attach(file.fileno(), made, read_only=False)
    try:
        yield made
    finally:
        thaw(made)
        unmount(made)
        assert mounted_at(made) is None


def disks(place: str, seconds: float = 60) -> Disks:
    return OneDisk(cast(Any, None), cast(Any, OnePath(place.removesuffix(SUFFIX))), frozen_seconds=seconds)


def writing(place: str, done: threading.Event) -> threading.Thread:
    def write() -> None:
        Path(place, "written").write_text("x")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_writers_wait_and_go_on(place: str) -> None:
    done = threading.Event()
    with disks(place).frozen("vm"):
        thread = writing(place, done)
        assert not done.wait(0.2)
        with disks(place).frozen("vm"):
            pass
        assert not done.is_set(), "who did not freeze it does not thaw it"
    thread.join(30)
    assert done.is_set()


def test_it_is_thawed_when_that_takes_too_long(place: str) -> None:
    done = threading.Event()
    with disks(place, 0.1).frozen("vm"):
        thread = writing(place, done)
        assert done.wait(30), "frozen for ever"
    thread.join(30)
    assert not thaw(place)


def test_it_is_thawed_after_a_failure(place: str) -> None:
    with pytest.raises(RuntimeError), disks(place).frozen("vm"):
        raise RuntimeError
    assert not thaw(place)


def test_without_a_disk_nothing_happens(place: str) -> None:
    freeze(place)
    with disks(place).frozen("other"):
        pass
    assert thaw(place), "still frozen by whoever did it"
