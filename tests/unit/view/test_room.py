"""Quotas and a full disk as an operation meets them: what grows is refused, what shrinks goes on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.view.room import Quota
from cowfs.view.view import RENAME_WHITEOUT
from tests.support.counted import check_counters
from tests.support.lab import ME
from tests.support.roomy import TestDisk
from tests.support.single import Single

BIG = 10 << 20


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Single]:
    """A workspace with two files and a directory."""
    made = Single(tmp_path / "journals")
    files = made.files
    files.write("a", b"a" * 10_000)
    files.write("b", b"b" * 5_000)
    files.mkdir("d")
    yield made
    made.check()


def refused(code: int, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """The call must fail with this errno and change nothing."""
    with pytest.raises(OSError) as caught:
        call(*arguments, **options)
    assert caught.value.errno == code, os.strerror(caught.value.errno or 0)


def growing(single: Single) -> list[Callable[[], object]]:
    """Everything that takes an inode."""
    files, view = single.files, single.view
    return [
        lambda: files.create("new"),
        lambda: files.mkdir("newd"),
        lambda: files.symlink("newl", b"target"),
        lambda: view.mknod(1, b"fifo", stat.S_IFIFO | 0o644, 0, ME),
        lambda: view.tmpfile(1, 0o644, ME),
        lambda: view.rename(1, b"a", 1, b"moved", RENAME_WHITEOUT, ME),
    ]


def test_inodes(single: Single) -> None:
    single.workspace.room.limit(Quota(0, 4))
    for call in growing(single):
        refused(errno.EDQUOT, call)
    files = single.files
    files.link("a", "more")
    files.write("a", b"x" * 50_000)
    files.unlink("b")
    files.create("instead")
    assert single.view.statfs().files_free == 0
    refused(errno.EDQUOT, files.create, "one too many")


def test_an_open_file_without_a_name_counts(single: Single) -> None:
    view, files = single.view, single.files
    used = view.statistics().used_bytes
    single.workspace.room.limit(Quota(used, 4))
    ino = files.ino("a")
    view.opened(ino, True, ME)
    files.unlink("a")
    check_counters(view)
    refused(errno.EDQUOT, files.create, "c")
    refused(errno.EDQUOT, view.write, ino, 100_000, b"x", ME)
    single.checkpoint()
    check_counters(view)
    refused(errno.EDQUOT, files.create, "c")
    view.released(ino, True, ME)
    check_counters(view)
    files.write("c", b"x" * 10_000)


def test_bytes(single: Single) -> None:
    view, files = single.view, single.files
    used = view.statistics().used_bytes
    single.workspace.room.limit(Quota(used + 8192, 0))
    found = view.statfs()
    assert (found.blocks, found.blocks_free) == ((used + 8192) // 4096, 2)
    files.write("b", b"x" * 12_000)  # one page more
    refused(errno.EDQUOT, files.write, "a", b"x" * 20_000)
    files.mkdir("one page")
    refused(errno.EDQUOT, files.mkdir, "another")
    files.create("an empty file takes no bytes")
    files.write("a", b"y" * 10_000)
    files.set("a", size=1 << 30)  # a hole
    refused(errno.EDQUOT, files.write, "a", b"x", 1 << 20)
    files.set("a", size=0)
    files.write("a", b"x" * 10_000)
    files.unlink("a")
    files.write("c", b"x" * 10_000)
    assert view.statfs().blocks_free == 0


def test_over_the_quota_only_growth_is_refused(single: Single) -> None:
    view, files = single.view, single.files
    single.workspace.room.limit(Quota(4096, 1))
    assert (view.statfs().blocks_free, view.statfs().files_free) == (0, 0)
    files.write("a", b"z" * 10_000)
    refused(errno.EDQUOT, files.write, "a", b"z" * 4096, 12_288)
    files.rename("a", "d/a")
    files.set("b", mode=0o600)
    view.setxattr(files.ino("b"), b"user.x", b"value", 0, ME)
    files.rmdir("d") if not files.names("d") else files.unlink("d/a")
    single.workspace.room.limit(Quota())
    files.write("e", b"e" * 100_000)


def test_a_full_disk(single: Single) -> None:
    view, files = single.view, single.files
    disk = single.env.disk
    assert isinstance(disk, TestDisk)
    disk.free, disk.left = 0, 0
    assert view.statfs().blocks_free == 0
    for call in growing(single):
        refused(errno.ENOSPC, call)
    ino = files.ino("a")
    for refusable in (
        lambda: files.write("a", b"overwritten"),
        lambda: files.link("a", "link"),
        lambda: files.set("a", size=1 << 20),
        lambda: view.setxattr(ino, b"user.x", b"value", 0, ME),
        lambda: view.fallocate(ino, 0, 0, 1 << 20, ME),
        lambda: view.copy_range(files.ino("b"), 0, ino, 0, 100, ME),
    ):
        refused(errno.ENOSPC, refusable)
    view.opened(ino, True, ME)
    files.rename("b", "d/b")
    files.set("a", mode=0o600)
    view.fallocate(ino, 3, 0, 4096, ME)
    files.set("a", size=5000)
    files.unlink("a")
    files.unlink("d/b")
    files.rmdir("d")
    single.checkpoint()
    view.released(ino, True, ME)
    disk.free = 1 << 30
    files.write("again", b"x" * 10_000)


def test_the_disk_is_looked_at_once_in_a_while(single: Single) -> None:
    disk = single.env.disk
    assert isinstance(disk, TestDisk)
    before = disk.looks
    for number in range(100):
        single.files.write("a", b"x" * 100_000, number * 100_000)
    assert 9 <= disk.looks - before <= 11
    ino = single.files.ino("a")
    disk.free, written = 300_000, 0
    while disk.free > 100_000:
        written += single.view.write(ino, 0, b"x" * 100_000, ME)
        disk.free -= 100_000
        assert written <= 1 << 20, "it may overshoot by what lies between two looks"
    disk.left = 0
    refused(errno.ENOSPC, single.view.write, ino, 0, b"x" * 100_000, ME)


def test_a_failing_append_is_tried_again_after_relief(single: Single, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, real, fails = single.env.disk, os.pwritev, [3]
    assert isinstance(disk, TestDisk)

    def pwritev(*arguments: Any) -> int:
        if fails[0]:
            fails[0] -= 1
            raise OSError(errno.ENOSPC, "full")
        return real(*arguments)

    monkeypatch.setattr(os, "pwritev", pwritev)
    disk.pieces = 3
    single.files.unlink("a")
    assert (disk.pieces, fails[0]) == (0, 0)
    fails[0] = 1
    disk.pieces = 5
    refused(errno.ENOSPC, single.files.write, "b", b"a writer gets nothing of it")
    assert disk.pieces == 5
    fails[0], disk.pieces = 1, 0
    refused(errno.ENOSPC, single.files.unlink, "b")
    assert single.files.read("b") == b"b" * 5_000
