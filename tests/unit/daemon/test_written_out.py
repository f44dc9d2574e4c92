"""The folder of contents that the kernel reads: bounded, and nothing of an earlier boot in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt
from cowfs.formats.inode import BLOCK, Content
from cowfs.view.file import StoredFile
from cowfs_daemon.fuse import written_out
from cowfs_daemon.fuse.written_out import WrittenOut
from tests.fuse.conftest import wait_until


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is free here is another test's matter."""
    monkeypatch.setattr(written_out, "_ROOM_SHARE", 0)


def stored(blocks: MemoryBlocks, data: bytes) -> StoredFile:
    return StoredFile(blocks, Content(BLOCK, 1, blocks.put(data)), len(data), 17)


def read(folder: WrittenOut, data: StoredFile) -> bytes:
    fd = folder.open(data)
    with open(fd, "rb") as file:
        return file.read()


def test_a_content_is_written_once_and_read_by_all(tmp_path: Path) -> None:
    blocks = MemoryBlocks()
    one, two = WrittenOut(tmp_path / "shown"), WrittenOut(tmp_path / "shown")
    file = stored(blocks, b"content")
    one.make()
    assert read(one, file) == b"content"
    before = [(path.name, path.stat().st_ino) for path in one.path.iterdir()]
    assert read(two, file) == b"content"
    assert [(path.name, path.stat().st_ino) for path in one.path.iterdir()] == before


def test_the_folder_is_bounded_whoever_fills_it(tmp_path: Path) -> None:
    blocks = MemoryBlocks()
    folders = [WrittenOut(tmp_path / "shown", limit_bytes=160_000) for _ in range(3)]
    folders[0].make()
    kept = stored(blocks, b"kept".ljust(10_000))
    for number in range(90):
        file = stored(blocks, b"%d" % number + bytes(9_990))
        assert len(read(folders[number % 3], file)) == file.size
        assert read(folders[0], kept).startswith(b"kept")
        size = sum(path.stat().st_size for path in folders[0].path.iterdir())
        assert size <= 160_000 + 3 * 20_000  # each looks at the others' once in a sixteenth
    assert len(list(folders[0].path.iterdir())) > 5


def test_small_files_count_as_what_they_take(tmp_path: Path) -> None:
    blocks = MemoryBlocks()
    folder = WrittenOut(tmp_path / "shown", limit_bytes=160_000)
    folder.make()
    for number in range(90):
        os.close(folder.open(stored(blocks, b"%d" % number)))
    assert len(list(folder.path.iterdir())) <= 160_000 // 4096
    assert folder.statistics() == (0, 90)


def test_a_full_folder_is_not_looked_through_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []

    def scandir(path: Path) -> Iterator[os.DirEntry[str]]:
        looks.append(path)
        return everything(path)

    everything = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    blocks, units = MemoryBlocks(), 320
    folder = WrittenOut(tmp_path / "shown", limit_bytes=units * 4096)
    folder.make()
    for number in range(3 * units):
        os.close(folder.open(stored(blocks, b"%d" % number)))
    assert len(looks) <= 3 * 16 + 1
    assert units - units // 16 - 1 <= sum(1 for _ in everything(folder.path)) <= units


def test_mounts_that_wait_for_the_same_content_share_it(tmp_path: Path) -> None:
    folder, file = WrittenOut(tmp_path / "shown"), stored(MemoryBlocks(), b"content")
    folder.make()
    with ThreadPoolExecutor(2) as mounts:
        with folder._lock:
            waiting = [mounts.submit(folder.open, file) for _ in range(2)]
            wait_until(lambda: folder.statistics().misses == 2)
        descriptors = [each.result() for each in waiting]
    assert len({os.fstat(fd).st_ino for fd in descriptors}) == 1
    for fd in descriptors:
        os.close(fd)


def test_what_is_too_large_or_damaged_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = MemoryBlocks()
    folder = WrittenOut(tmp_path / "shown", limit_bytes=10_000)
    folder.make()
    assert folder.open(stored(blocks, bytes(10_001))) == -1
    monkeypatch.setattr(written_out, "INLINE_MAX", 100)
    assert folder.open(stored(blocks, bytes(101))) == -1
    with pytest.raises(Corrupt):
        folder.open(StoredFile(blocks, Content(BLOCK, 1, bytes(32)), 50, 17))
    assert os.listdir(folder.path) == []


def test_a_disk_with_little_room_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_out, "_ROOM_SHARE", 1 << 40)
    folder = WrittenOut(tmp_path / "shown")
    folder.make()
    assert folder.open(stored(MemoryBlocks(), b"x")) == -1


def test_what_an_earlier_boot_has_left_goes(tmp_path: Path) -> None:
    """A power loss may have left a file with a name and no content."""
    file = stored(MemoryBlocks(), b"content")
    before = WrittenOut(tmp_path / "shown", boot="before")
    before.make()
    os.close(before.open(file))
    (torn,) = before.path.iterdir()
    torn.chmod(0o600)
    torn.write_bytes(b"")
    after = WrittenOut(tmp_path / "shown", boot="after")
    after.make()
    assert read(after, file) == b"content"
    assert os.listdir(tmp_path / "shown") == ["after"]
