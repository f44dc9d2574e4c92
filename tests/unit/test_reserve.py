"""The reserve: what it takes, who may have how much of it, and that it comes back."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Corrupt, NoSpace
from cowfs.reserve import FILE_SHARE, LOOK_BYTES, PIECE_BYTES, PIECE_BYTES_MIN, Reserve, reserve_bytes


class Disk:
    """statvfs of an imaginary disk of ``total`` bytes: ``other`` bytes are those of others."""

    def __init__(self, path: Path, total: int) -> None:
        self.path, self.total, self.other = path, total, 0

    def statvfs(self, path: Any) -> os.statvfs_result:
        file = self.path / "reserve"
        held = file.stat().st_blocks * 512 if file.exists() else 0
        free = max(self.total - self.other - held, 0)
        return os.statvfs_result((4096, 4096, self.total // 4096, free // 4096, free // 4096, 0, 0, 0, 0, 255))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(tmp_path, 512 << 20)
    monkeypatch.setattr(os, "statvfs", made.statvfs)
    return made


def test_sizes() -> None:
    assert reserve_bytes(1 << 40) == 256 << 20
    assert reserve_bytes(512 << 20) == 64 << 20


def test_what_writers_may_use(disk: Disk) -> None:
    reserve, kept = Reserve(disk.path), reserve_bytes(disk.total)
    assert reserve.space() == (disk.total - kept, disk.total - kept)
    reserve.refill()
    assert reserve.held() == kept // FILE_SHARE
    assert reserve.space() == (disk.total - kept, disk.total - kept), "the file is a part of it"
    disk.other = disk.total - kept - 8192
    reserve.look(8191)
    assert reserve.left == 1
    with pytest.raises(OSError) as caught:
        reserve.look(8192)
    assert caught.value.errno == errno.ENOSPC
    disk.other = disk.total
    assert reserve.space()[0] == 0
    disk.other = 0
    reserve.look(100)
    assert reserve.left == LOOK_BYTES - 100


def test_who_may_have_how_much(disk: Disk) -> None:
    reserve = Reserve(disk.path)
    assert not reserve.relieve(vital=True), "there is no file"
    reserve.refill()
    whole = reserve.held()
    disk.other = disk.total
    pieces = 0
    while reserve.relieve(vital=False):
        pieces += 1
    assert pieces == whole // 2 // PIECE_BYTES
    assert reserve.held() == whole // 2
    while reserve.relieve(vital=True):
        pieces += 1
    assert (pieces, reserve.held()) == (whole // PIECE_BYTES, 0)


def test_it_comes_back_with_the_space(disk: Disk) -> None:
    reserve = Reserve(disk.path)
    reserve.refill()
    whole = reserve.held()
    disk.other = disk.total - whole
    asked = 0

    def work() -> int:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise NoSpace("full")
        if asked < 6:
            raise OSError(errno.ENOSPC, "full")
        return 7

    assert reserve.enough(work) == 7
    assert reserve.held() == whole - 5 * PIECE_BYTES, "a piece for every attempt that failed"
    reserve.refill()
    assert reserve.held() < whole, "half of what is free, no more"
    disk.other = 0
    reserve.refill()
    assert reserve.held() == whole


def test_work_fails_when_nothing_is_left_or_for_another_reason(disk: Disk) -> None:
    reserve = Reserve(disk.path)
    reserve.refill()
    whole, asked = reserve.held(), 0

    def work(error: Exception) -> None:
        nonlocal asked
        asked += 1
        raise error

    for error in (OSError(errno.EIO, "broken"), Corrupt("damaged")):
        with pytest.raises(type(error)):
            reserve.enough(partial(work, error))
    assert (asked, reserve.held()) == (2, whole)
    with pytest.raises(NoSpace):
        reserve.enough(partial(work, NoSpace("full")))
    assert (asked, reserve.held()) == (3 + whole // PIECE_BYTES, 0)


def test_a_small_disks_file_goes_in_smaller_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, 20 << 20)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    reserve = Reserve(tmp_path)
    reserve.refill()
    whole = reserve.held()
    assert reserve.relieve(vital=True)
    assert whole - reserve.held() == PIECE_BYTES_MIN < whole // 8


def test_settling_does_not_begin_without_room_and_takes_nothing(disk: Disk) -> None:
    reserve = Reserve(disk.path)
    reserve.refill()
    whole = reserve.held()
    reserve.refuse_without(100 << 20)
    disk.other = disk.total - whole - (1 << 20)
    reserve.refuse_without(500_000)
    with pytest.raises(NoSpace):
        reserve.refuse_without(1 << 20)
    assert reserve.held() == whole


def test_a_sparse_copy_of_the_file_holds_nothing(disk: Disk) -> None:
    with (disk.path / "reserve").open("wb") as file:
        file.truncate(16 << 20)
    reserve = Reserve(disk.path)
    assert (reserve.held(), reserve.relieve(vital=True)) == (0, False)
    reserve.refill()
    assert reserve.held() == reserve_bytes(disk.total) // FILE_SHARE
