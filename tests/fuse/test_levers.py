"""What the negotiated flags and answers spare: the requests that a mount does not send, counted."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cowfs.geometry import ROOT_INO
from cowfs.view.inode import Caller
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.mount import READ_AHEAD_KB
from cowfs_daemon.fuse.negotiate import MAX_WRITE
from tests.support.mounting import needs_root

from .conftest import Mounted

MEGABYTES = 4


@contextmanager
def asked(mounted: Mounted) -> Iterator[dict[int, int]]:
    """Opcode -> how often the kernel asked in the block; filled in at its end."""
    counts, seen = mounted.transport.session.counts, dict[int, int]()
    before = list(counts.requests)
    yield seen
    seen.update({op: now - was for op, (was, now) in enumerate(zip(before, counts.requests, strict=True)) if now > was})


def made_unknown(mounted: Mounted, count: int) -> list[str]:
    """Make files that the kernel has not heard of; their names."""
    names = [f"f{number}" for number in range(count)]
    with mounted.workspace.lock:
        for name in names:
            mounted.workspace.view.mknod(ROOT_INO, name.encode(), stat.S_IFREG | 0o644, 0, Caller())
    return names


def test_a_missing_name_is_asked_for_once(mounted: Mounted) -> None:
    for expected in ({protocol.LOOKUP: 1}, {}):
        with asked(mounted) as seen:
            assert not (mounted.path / "missing").exists()
        assert seen == expected


def test_a_symlink_is_read_once(mounted: Mounted) -> None:
    os.symlink("target", mounted.path / "link")
    mounted.path.stat()
    for expected in ({protocol.READLINK: 1}, {}):
        with asked(mounted) as seen:
            assert os.readlink(mounted.path / "link") == "target"
        assert seen == expected


def test_names_and_attributes_are_asked_for_once(mounted: Mounted) -> None:
    made_unknown(mounted, 1)
    for expected in ({protocol.LOOKUP: 1}, {}, {}):
        with asked(mounted) as seen:
            (mounted.path / "f0").stat()
        assert seen == expected


def test_flush_and_access_are_asked_once_at_most(mounted: Mounted) -> None:
    with asked(mounted) as seen:
        for number in range(5):
            (mounted.path / f"f{number}").write_text("x")
            assert os.access(mounted.path / f"f{number}", os.R_OK)
    assert seen[protocol.FLUSH] == 1
    assert seen.get(protocol.ACCESS, 0) <= 1
    assert seen[protocol.CREATE] == seen[protocol.WRITE] == 5


def test_what_a_listing_has_told_is_not_looked_up(mounted: Mounted) -> None:
    names = made_unknown(mounted, 20)
    with asked(mounted) as seen:
        assert sorted(os.listdir(mounted.path)) == sorted(names)
        for name in names:
            (mounted.path / name).stat()
    assert protocol.READDIRPLUS in seen
    assert not set(seen) & {protocol.LOOKUP, protocol.GETATTR, protocol.STATX}


@needs_root("sets the read-ahead of its mounts")
def test_read_ahead(mounted: Mounted) -> None:
    number = mounted.transport.connection.number
    assert int(Path(f"/sys/class/bdi/0:{number}/read_ahead_kb").read_text()) == READ_AHEAD_KB
    assert READ_AHEAD_KB << 10 == MAX_WRITE


@needs_root("sets the read-ahead of its mounts")
def test_a_mebibyte_in_a_read(mounted: Mounted) -> None:
    data = os.urandom(MEGABYTES << 20)
    (mounted.path / "f").write_bytes(data)
    assert mounted.transport._notify(protocol.invalidate_inode((mounted.path / "f").stat().st_ino))
    with asked(mounted) as seen, (mounted.path / "f").open("rb", buffering=0) as file:
        assert file.read(len(data)) == data
    assert seen[protocol.READ] == MEGABYTES
    with asked(mounted) as seen:
        assert (mounted.path / "f").read_bytes() == data
    assert protocol.READ not in seen


@pytest.mark.parametrize("direct", [True, False])
def test_a_mebibyte_in_a_write(mounted: Mounted, direct: bool) -> None:
    """The kernel joins the pages of one call; through the page cache it takes as many as it can lock at a time."""
    fd = os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0))
    try:
        with mmap.mmap(-1, MEGABYTES << 20) as buffer:
            buffer.write(os.urandom(len(buffer)))
            with asked(mounted) as seen:
                assert os.pwritev(fd, [buffer], 0) == len(buffer)
            assert seen[protocol.WRITE] == MEGABYTES
    finally:
        os.close(fd)


def test_a_read_of_very_many_pieces(mounted: Mounted) -> None:
    """More than one writev takes: every other byte was written by a call of its own."""
    content = bytearray(os.urandom(6_000))
    path = mounted.path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)
    try:
        for at in range(0, len(content), 2):
            content[at] = at % 251
            os.pwrite(fd, content[at : at + 1], at)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with asked(mounted) as seen:
            assert os.pread(fd, len(content), 0) == content
    finally:
        os.close(fd)
    assert seen == {protocol.READ: 1}
    inode = mounted.workspace.view.inode(path.stat().st_ino)
    assert len(mounted.workspace.view.pieces(inode.ino, 0, len(content))) >= len(content) // 2
