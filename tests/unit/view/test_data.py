"""File data: sparse writes, holes, punching, growing and cutting, against bytes and pages in a plain model."""

import errno
import os
import random
from pathlib import Path

import pytest

from cowfs.formats.journal import WRITE_DATA_MAX
from cowfs.geometry import PAGE, Geometry
from cowfs.view.inode import SetAttr
from cowfs.view.view import FILE_MAX
from tests.support.lab import ME
from tests.unit.view.conftest import PLACES, Bench
from tests.unit.view.test_names import refused

KEEP, PUNCH, ZERO = 1, 3, 16


class Plain:
    """Bytes, and which pages are allocated."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pages: set[int] = set()

    def write(self, offset: int, data: bytes) -> None:
        """pwrite"""
        if offset + len(data) > len(self.data):
            self.resize(offset + len(data))
        self.data[offset : offset + len(data)] = data
        self.pages |= set(range(offset // PAGE, -(-(offset + len(data)) // PAGE)))

    def resize(self, size: int) -> None:
        """ftruncate"""
        self.data = self.data[:size] + bytes(max(0, size - len(self.data)))
        self.pages = {page for page in self.pages if page * PAGE < size}

    def punch(self, start: int, end: int, size: int) -> None:
        """Whole pages go, the end of the file makes its page whole; the edges become zeros."""
        end = min(end, size)
        if start < end:
            self.data[start:end] = bytes(end - start)
        last = -(-end // PAGE) if end == size else end // PAGE
        self.pages -= set(range(-(-start // PAGE), last))

    def seek(self, offset: int, data: bool) -> int | None:
        """The next offset in data or in a hole, None when there is none."""
        if offset >= len(self.data):
            return None
        at = offset
        while at < len(self.data):
            if (at // PAGE in self.pages) == data:
                return at
            at = (at // PAGE + 1) * PAGE
        return None if data else len(self.data)


def compare(bench: Bench, ino: int, plain: Plain) -> None:
    """Size, bytes, st_blocks, and holes from every page on."""
    view, inode = bench.view, bench.view.inode(ino)
    assert inode.size == len(plain.data)
    assert view.read(ino, 0, inode.size + 10) == plain.data
    assert inode.blocks == 8 * len(plain.pages)
    for offset in {0, *(page * PAGE + extra for page in range(-(-inode.size // PAGE)) for extra in (0, 1))}:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            expected = plain.seek(offset, whence == os.SEEK_DATA)
            if expected is None:
                refused(errno.ENXIO, view.seek, ino, offset, whence)
            else:
                assert view.seek(ino, offset, whence) == expected


def test_sparse_writes_at_odd_offsets(bench: Bench) -> None:
    ino = bench.files.create("f")
    plain = Plain()
    for offset, size in ((5, 10), (4090, 12), (70_001, 1), (8191, 2), (300_000, 5000), (12_288, 4096)):
        bench.view.write(ino, offset, b"%d" % size * size, ME)
        plain.write(offset, (b"%d" % size * size))
        compare(bench, ino, plain)
    bench.put()
    compare(bench, ino, plain)
    bench.view.write(ino, 70_000, b"xyz", ME)
    plain.write(70_000, b"xyz")
    compare(bench, ino, plain)


def test_punching_and_zeroing(bench: Bench) -> None:
    ino = bench.files.create("f")
    plain = Plain()
    bench.view.write(ino, 0, bytes(range(256)) * 160, ME)  # ten pages
    plain.write(0, bytes(range(256)) * 160)
    bench.put()
    size = len(plain.data)
    for mode, offset, length in (
        (PUNCH, 100, 50), (PUNCH, 4096, 4096), (PUNCH, 10_000, 10_000), (ZERO, 5, 4096), (PUNCH, 30_000, 100_000),
        (ZERO | KEEP, 28_000, 50_000), (PUNCH, 0, 1), (PUNCH, 500_000, 10),
    ):  # fmt: skip
        bench.view.fallocate(ino, mode, offset, length, ME)
        if mode & ZERO and not mode & KEEP and offset + length > size:
            plain.resize(offset + length)
        plain.punch(offset, offset + length, size)
        compare(bench, ino, plain)
    bench.view.fallocate(ino, ZERO, 40_000, 20_000, ME)
    plain.punch(40_000, 60_000, len(plain.data))
    plain.resize(60_000)
    compare(bench, ino, plain)
    bench.view.write(ino, 59_000, b"end", ME)
    plain.write(59_000, b"end")
    compare(bench, ino, plain)


def test_allocating_sets_the_size_alone(bench: Bench) -> None:
    ino = bench.files.write("f", b"abc")
    bench.put()
    view = bench.view
    view.fallocate(ino, KEEP, 0, 100_000, ME)
    assert (view.inode(ino).size, view.inode(ino).blocks) == (3, 8)
    view.fallocate(ino, 0, 10_000, 90_000, ME)
    assert (view.inode(ino).size, view.inode(ino).blocks) == (100_000, 8)
    assert view.read(ino, 0, 5) == b"abc\0\0"
    assert view.seek(ino, 0, os.SEEK_HOLE) == 4096


def test_cut_bytes_do_not_come_back(bench: Bench) -> None:
    ino = bench.files.write("f", b"secret" * 5000)
    bench.put()
    view = bench.view
    for small, large in ((10_001, 40_000), (5000, 5001), (0, 9000)):
        view.setattr(ino, SetAttr(size=small), ME)
        view.setattr(ino, SetAttr(size=large), ME)
        assert view.read(ino, small, large) == bytes(large - small)
        assert view.inode(ino).blocks == 8 * -(-small // PAGE)


def test_offsets_and_sizes_that_are_refused(bench: Bench) -> None:
    ino = bench.files.write("f", b"abc")
    folder, pipe = bench.files.mkdir("d"), bench.view.mknod(1, b"p", 0o10600, 0, ME).ino
    bench.put()
    view = bench.view
    before = bench.hash()
    refused(errno.EINVAL, view.write, ino, -1, b"x", ME)
    refused(errno.EFBIG, view.write, ino, FILE_MAX, b"x", ME)
    refused(errno.EFBIG, view.write, ino, FILE_MAX - 1, b"xx", ME)
    for at, code in ((folder, errno.EISDIR), (pipe, errno.EINVAL), (999, errno.ESTALE)):
        refused(code, view.write, at, 0, b"x", ME)
        refused(code, view.read, at, 0, 1)
        refused(code, view.fallocate, at, 0, 0, 1, ME)
        refused(code, view.seek, at, 0, os.SEEK_DATA)
        refused(code, view.copy_range, ino, 0, at, 0, 1, ME)
        refused(code, view.copy_range, at, 0, ino, 0, 1, ME)
    for offset, length in ((-1, 5), (0, 0), (0, -1)):
        refused(errno.EINVAL, view.fallocate, ino, 0, offset, length, ME)
    refused(errno.EFBIG, view.fallocate, ino, 0, FILE_MAX, 1, ME)
    for mode in (2, 8, 32, 64, KEEP | 64):
        refused(errno.EOPNOTSUPP, view.fallocate, ino, mode, 0, 1, ME)
    refused(errno.EINVAL, view.seek, ino, 0, os.SEEK_SET)
    for offset in (-1, 3, 100):
        refused(errno.ENXIO, view.seek, ino, offset, os.SEEK_DATA)
        refused(errno.ENXIO, view.seek, ino, offset, os.SEEK_HOLE)
    refused(errno.EINVAL, view.copy_range, ino, 0, ino, 1, 2, ME)
    assert view.write(ino, 5, b"", ME) == 0
    assert view.read(ino, 3, 10) == view.read(ino, 100, 10) == view.read(ino, 0, 0) == b""
    assert bench.hash() == before


def test_append_goes_to_the_end(bench: Bench) -> None:
    ino = bench.files.write("f", b"abc")
    bench.put()
    assert bench.view.write(ino, 0, b"def", ME, append=True) == 3
    assert bench.files.read("f") == b"abcdef"


def test_a_write_is_as_long_as_a_record_may_be(bench: Bench) -> None:
    ino = bench.files.create("f")
    data = os.urandom(1 << 20) * 5
    assert bench.view.write(ino, 7, memoryview(data), ME) == WRITE_DATA_MAX
    assert bench.view.read(ino, 7, WRITE_DATA_MAX + 1) == data[:WRITE_DATA_MAX]
    bench.put()


def test_copying_between_files_and_within_one(bench: Bench) -> None:
    source = bench.files.write("source", bytes(range(256)) * 10_000)
    target = bench.files.write("target", b"t" * 10)
    bench.put()
    view = bench.view
    assert view.copy_range(source, 100, target, 5, 1000, ME) == 1000
    assert bench.files.read("target") == b"t" * 5 + (bytes(range(256)) * 10_000)[100:1100]
    assert view.copy_range(source, 2_559_990, target, 0, 1000, ME) == 10
    assert view.copy_range(source, 6_000_000, target, 0, 10, ME) == 0
    assert view.copy_range(source, 0, target, 0, 1 << 30, ME) == 2_560_000
    assert view.copy_range(source, 1, target, 0, 1 << 30, ME) == 1 << 20
    assert view.copy_range(target, 0, target, 2_000_000, 500, ME) == 500
    assert view.read(target, 2_000_000, 500) == view.read(target, 0, 500)


def test_times_of_data_operations(bench: Bench) -> None:
    ino = bench.files.write("f", b"data")
    bench.put()
    view = bench.view
    for change in (
        lambda: view.write(ino, 0, b"x", ME),
        lambda: view.fallocate(ino, PUNCH, 0, 1, ME),
        lambda: view.setattr(ino, SetAttr(size=2), ME),
        lambda: view.setattr(ino, SetAttr(size=200), ME),
    ):
        change()
        inode = view.inode(ino)
        assert inode.mtime == inode.ctime == bench.clock.now
    before = bench.hash()
    view.read(ino, 0, 10)
    view.seek(ino, 0, os.SEEK_DATA)
    assert bench.hash() == before


@pytest.mark.parametrize("block_log2", [12, 13, 17])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(tmp_path: Path, place: str, seed: int, block_log2: int) -> None:
    bench = Bench(tmp_path / "journals", Geometry(inline_limit=128, leaf_limit=512, block_log2=block_log2))
    bench.place = place
    ino = bench.files.create("f")
    plain = Plain()
    choice = random.Random(seed)
    for turn in range(60):
        offset, length = choice.randrange(60_000), choice.choice((1, 100, 4096, 9000, 30_000))
        offset = choice.choice((offset, offset // PAGE * PAGE))
        kind = choice.randrange(6)
        if kind < 3:
            data = choice.randbytes(length)
            bench.view.write(ino, offset, data, ME)
            plain.write(offset, data)
        elif kind == 3:
            bench.view.setattr(ino, SetAttr(size=offset), ME)
            plain.resize(offset)
        else:
            bench.view.fallocate(ino, PUNCH, offset, length, ME)
            plain.punch(offset, offset + length, len(plain.data))
        if turn % 9 == 0:
            bench.put()
            compare(bench, ino, plain)
    compare(bench, ino, plain)
    bench.check()
