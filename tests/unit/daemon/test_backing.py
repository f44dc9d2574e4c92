"""The log of what a read-only mount has the kernel read by itself: bounded, and right at every moment."""

from __future__ import annotations

import fcntl
from itertools import count
from pathlib import Path

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.formats.inode import BLOCK, Content
from cowfs.view.file import StoredFile
from cowfs.view.inode import Inode
from cowfs_daemon.fuse import backing, written_out
from cowfs_daemon.fuse.backing import Backing
from cowfs_daemon.fuse.written_out import WrittenOut


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenOut:
    """A folder, and a kernel that numbers what it is given."""
    numbers = count(1)
    monkeypatch.setattr(written_out, "_ROOM_SHARE", 0)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: next(numbers))
    return WrittenOut(tmp_path / "shown")


def inode(blocks: MemoryBlocks, ino: int) -> Inode:
    data = b"content %d" % ino
    made = Inode.__new__(Inode)
    made.ino, made.size = ino, len(data)
    made.data = StoredFile(blocks, Content(BLOCK, 1, blocks.put(data)), len(data), 17)
    return made


def test_the_log_is_written_anew_before_it_grows(written: WrittenOut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "NOTED_MAX", 20)
    blocks = MemoryBlocks()
    mount = Backing(-1, written, "mount", complete=True)
    held = [mount.opened(inode(blocks, ino), 0) for ino in (1, 2, 3)]
    for ino in range(10, 110):
        assert mount.opened(inode(blocks, ino), 0)
        mount.released(ino)
        assert (written.path / "log-mount").stat().st_size <= (20 + 2 * 5) * 12
        successor = Backing(-1, written, "mount", complete=False)
        assert [successor.opened(inode(blocks, ino), 1) for ino in (1, 2, 3, ino)] == [*held, 0]
        successor.close(gone=False)
    mount.close(gone=True)
    assert not [path.name for path in written.path.iterdir() if len(path.name) != 64]
