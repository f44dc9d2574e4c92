"""The index made anew from segments: sealed, unsealed, damaged, with copies; whole or not at all."""

import os
from pathlib import Path

import pytest

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.rebuild import rebuild
from cowfs.blocks.segments import segment_path
from cowfs.errors import Corrupt, NoSpace
from cowfs.formats.checksum import block_id
from tests.unit.blocks.conftest import Blocks


def filled(blocks: Blocks) -> list[bytes]:
    """Two segments, one of them sealed, and a block in both; the raw blocks."""
    raws = [b"%d " % number + os.urandom(500) for number in range(60)]
    for number in (1, 2):
        writer = blocks.writer(number)
        writer.put_many(raws[:40] if number == 1 else raws[40:])
        blocks.commit(writer)
        if number == 1:
            writer.segment.seal()
    return raws


def opened(blocks: Blocks) -> BlockIndex:
    return BlockIndex(blocks.index.path, writable=True, map_bytes=1 << 28)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_it_equals_the_one_that_was_lost(blocks: Blocks) -> None:
    filled(blocks)
    before, usage = list(blocks.index.items()), blocks.index.usage()
    blocks.close()
    (blocks.index.path / "data.mdb").unlink()
    found = rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    assert (found.segments, found.blocks, found.copies, found.damage) == (2, 60, 0, ())
    index = opened(blocks)
    assert (list(index.items()), index.usage()) == (before, usage)
    index.close()
    assert sorted(path.name for path in blocks.index.path.parent.iterdir()) == ["index", "segments"]


def test_marks_go_and_what_was_swept_comes_back_as_needless(blocks: Blocks) -> None:
    raws = filled(blocks)
    ids = [block_id(raw) for raw in raws]
    blocks.index.sweep(blocks.index.condemn(ids[:1]))
    blocks.index.condemn(ids[1:2])
    blocks.close()
    rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    index = opened(blocks)
    assert all(index.has(id_) for id_ in ids)
    index.close()


@pytest.mark.parametrize("broken", [1, 3, None])
def test_of_two_copies_a_good_one_counts_and_rather_the_newer(blocks: Blocks, broken: int | None) -> None:
    raws = filled(blocks)
    id_ = block_id(raws[5])
    place = blocks.index.get(id_)
    assert place is not None
    writer = blocks.writer(3)
    writer.copy(id_, place)
    writer.sync()
    (_, copy), *_ = writer.batch()[0]
    blocks.close()
    if broken is not None:
        bad = place if broken == 1 else copy
        flip(segment_path(blocks.segments, bad.segment), bad.offset + 70)
    rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    index = opened(blocks)
    assert index.get(id_) == (place if broken == 3 else copy)
    assert sum(one.blocks for one in index.usage()) == 60
    reader = BlockReader(index, blocks.segments)
    assert reader.get(id_) == raws[5]
    reader.close()
    index.close()


@pytest.mark.parametrize("segment", [1, 2])
@pytest.mark.parametrize("at", [0, 3, 40, 700, -5, -60])
def test_a_damaged_segment_gives_what_is_whole(blocks: Blocks, segment: int, at: int) -> None:
    raws = filled(blocks)
    blocks.close()
    path = segment_path(blocks.segments, segment)
    flip(path, at % path.stat().st_size)
    rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    index = opened(blocks)
    reader = BlockReader(index, blocks.segments)
    lost = 0
    for raw in raws:
        try:
            assert reader.get(block_id(raw)) == raw
        except Corrupt:
            lost += 1
    assert lost <= 1
    reader.close()
    index.close()


def test_a_file_under_the_name_of_another_segment_is_read(blocks: Blocks) -> None:
    raws = filled(blocks)
    blocks.close()
    segment_path(blocks.segments, 1).rename(segment_path(blocks.segments, 9))
    rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    index = opened(blocks)
    reader = BlockReader(index, blocks.segments)
    assert [reader.get(block_id(raw)) for raw in raws] == raws
    reader.close()
    index.close()


def test_it_is_whole_or_the_old_one_stays(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(blocks)
    blocks.close()
    old = (blocks.index.path / "data.mdb").read_bytes()
    for name in ("rename", "fsync"):
        with monkeypatch.context() as patched:

            def fails(*_: object) -> None:
                raise OSError(28, "No space left on device")

            patched.setattr(os, name, fails)
            with pytest.raises(NoSpace):
                rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
        if name == "rename":
            assert (blocks.index.path / "data.mdb").read_bytes() == old
    with pytest.raises(NoSpace):
        rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 14)
    scratch = blocks.index.path / "new"
    assert not scratch.exists()
    scratch.mkdir()
    (scratch / "data.mdb").write_bytes(b"of one that was killed")
    rebuild(blocks.segments, blocks.index.path, map_bytes=1 << 28)
    index = opened(blocks)
    assert index.statistics().blocks == 60
    index.close()
