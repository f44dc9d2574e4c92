"""Limits and promises of calls that a program meets on a mount: links, quotas, durable writes, copies for nothing."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs.view import view
from cowfs_daemon.fuse import protocol
from tests.support.live import live_store

from .conftest import Mounted

PAGE = 4096
QUOTA = 1 << 20
MEGABYTES = 3


def refused(call: Callable[[], object]) -> str:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def test_a_file_has_so_many_names_and_no_more(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as it is at 65,000, which takes a minute to reach."""
    monkeypatch.setattr(view, "LINK_MAX", 5)
    path = mounted.path
    (path / "f").touch()
    for number in range(4):
        os.link(path / "f", path / f"l{number}")
    assert refused(lambda: os.link(path / "f", path / "more")) == "EMLINK"
    assert ((path / "f").stat().st_nlink, (path / "more").exists()) == (5, False)
    (path / "l0").unlink()
    os.link(path / "f", path / "more")
    assert (path / "f").stat().st_nlink == 5


def test_a_quota_is_what_statfs_shows_and_then_edquot(tmp_path: Path) -> None:
    with live_store(tmp_path) as live:
        live.engine.create("ws")
        path = live.mount("ws")
        live.engine.set("ws", {"quota.bytes": QUOTA, "quota.inodes": 10})
        used = PAGE  # the root
        shown = os.statvfs(path)
        assert shown.f_blocks * shown.f_frsize == QUOTA
        assert shown.f_bavail * shown.f_frsize == shown.f_bfree * shown.f_frsize == QUOTA - used
        assert (shown.f_files, shown.f_favail) == (10, 9)
        with (path / "f").open("wb", buffering=0) as file:
            assert file.write(bytes(QUOTA // 2)) == QUOTA // 2
            assert os.statvfs(path).f_bavail * PAGE == QUOTA // 2 - used
            assert file.write(b"x" * (QUOTA // 2 - used)) == QUOTA // 2 - used
            assert (os.statvfs(path).f_bavail, file.tell()) == (0, QUOTA - used)
            assert refused(lambda: file.write(b"x")) == "EDQUOT"
            assert os.pwrite(file.fileno(), b"over", 0) == 4  # what is there can be changed
            file.truncate(QUOTA // 2)
            assert os.statvfs(path).f_bavail * PAGE == QUOTA // 2 - used
        for number in range(8):
            (path / f"g{number}").touch()
        assert refused((path / "more").touch) == "EDQUOT"
        assert os.statvfs(path).f_favail == 0
        live.engine.set("ws", {"quota.bytes": None, "quota.inodes": None})
        (path / "more").write_bytes(bytes(QUOTA))
        assert os.statvfs(path).f_blocks * PAGE > QUOTA


@pytest.mark.parametrize(
    "flags", [os.O_SYNC, os.O_DSYNC, os.O_SYNC | os.O_DIRECT, 0], ids=["O_SYNC", "O_DSYNC", "O_DIRECT", "RWF_DSYNC"]
)
def test_a_synchronous_write_is_durable_when_it_returns(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """Each is followed by an FSYNC, which syncs the journal with it."""
    synced: list[bytes] = []
    sync, fsyncs = mounted.workspace.sync, mounted.transport.session.counts.requests

    def noted() -> None:
        with mounted.workspace.lock:
            live = mounted.workspace.view
            inode = live.lookup(1, b"f")
            assert inode is not None
            synced.append(live.read(inode.ino, 0, inode.size)[::PAGE])
        sync()

    fd = os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT | flags, 0o600)
    monkeypatch.setattr(mounted.workspace, "sync", noted)
    try:
        before = fsyncs[protocol.FSYNC]
        for number in range(3):
            with mmap.mmap(-1, PAGE) as aligned:
                aligned[:] = bytes([97 + number]) * PAGE
                assert os.pwritev(fd, [aligned], number * PAGE, 0 if flags else os.RWF_DSYNC) == PAGE
            assert synced[-1] == b"abc"[: number + 1]
        assert fsyncs[protocol.FSYNC] - before == len(synced) == 3
    finally:
        os.close(fd)


def test_a_copy_of_whole_pages_takes_no_journal(mounted: Mounted) -> None:
    data = os.urandom(MEGABYTES << 20)
    (mounted.path / "a").write_bytes(data)
    (mounted.path / "b").write_bytes(bytes(PAGE) + data + b"tail")
    journal = mounted.workspace.journal
    before = journal.layer_bytes()
    with (mounted.path / "a").open("rb") as source, (mounted.path / "b").open("r+b") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), len(data), 0, PAGE) == len(data)
    assert 0 < journal.layer_bytes() - before < 4096
    with (mounted.path / "a").open("r+b") as source:
        source.write(b"changed")
    assert (mounted.path / "b").read_bytes() == bytes(PAGE) + data + b"tail"
    assert (mounted.path / "a").read_bytes() == b"changed" + data[7:]
