"""Storing and reading blocks: round trips, deduplication, damage, moved and missing segments, gc races."""

import os
import threading
import zlib
from pathlib import Path

import pytest
import zstandard

from cowfs.blocks.codec import decode, encode
from cowfs.blocks.reader import BlockReader, SegmentFiles
from cowfs.blocks.segments import read_segment, segment_path
from cowfs.blocks.writer import BlockWriter
from cowfs.errors import Corrupt
from cowfs.formats.checksum import block_id, xxh3
from cowfs.formats.segment import RAW, RAW_MAX, RECORD_BYTES, ZSTD, RecordHeader
from cowfs.geometry import Geometry
from cowfs.tree import radix
from tests.unit.blocks.conftest import Blocks

TEXT = b"a line that repeats itself\n" * 400


def varied(count: int, size: int) -> list[bytes]:
    """Blocks of which every second one compresses, and every fifth repeats the first."""
    made = [os.urandom(size) if number % 2 else (b"%d " % number) * (size // 4) for number in range(count)]
    return [made[0] if number % 5 == 4 else raw for number, raw in enumerate(made)]


@pytest.mark.parametrize("raw", [b"", b"x", TEXT, os.urandom(1000), bytes(RAW_MAX), os.urandom(RAW_MAX)])
def test_round_trip(blocks: Blocks, raw: bytes) -> None:
    writer = blocks.writer()
    id_ = writer.put(raw)
    assert id_ == block_id(raw)
    assert writer.get(id_) == raw
    with pytest.raises(Corrupt):
        blocks.reader.get(id_)
    assert blocks.commit(writer) == []
    assert blocks.fresh_reader().get(id_) == raw
    assert writer.get(id_) == raw
    blocks.reader.verify(id_)


def test_put_many_equals_put_one_by_one(blocks: Blocks) -> None:
    raws = varied(200, 9000)
    many, single = blocks.writer(1), blocks.writer(2, threads=1)
    assert many.put_many(raws) == [single.put(raw) for raw in raws] == [block_id(raw) for raw in raws]
    first, second = (segment_path(blocks.segments, number).read_bytes()[24:] for number in (1, 2))
    assert first == second
    assert many.statistics() == single.statistics()
    assert many.statistics().put_blocks == 200
    assert many.statistics().new_blocks == len(set(raws))


def test_compression_only_where_it_pays(blocks: Blocks) -> None:
    writer = blocks.writer()
    writer.put_many([TEXT, os.urandom(5000), b"a" * 50])
    assert [record.codec for _, record in read_segment(writer.segment.path).records] == [ZSTD, RAW, RAW]
    assert writer.put_many([]) == []


def test_a_block_over_the_limit_is_refused(blocks: Blocks) -> None:
    writer = blocks.writer()
    with pytest.raises(ValueError, match="at most"):
        writer.put(bytes(RAW_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        writer.put_many([bytes(RAW_MAX), bytes(RAW_MAX + 1)])


def test_known_blocks_are_relied_on_and_not_written(blocks: Blocks) -> None:
    raws = varied(50, 9000)
    first = blocks.writer(1)
    ids = first.put_many(raws)
    blocks.commit(first)
    second = blocks.writer(2)
    size = second.segment.size
    assert second.put_many(raws) == ids
    assert second.put(raws[0]) == ids[0]
    assert second.segment.size == size
    records, relied = second.batch()
    assert records == []
    assert sorted(relied) == sorted(set(ids))
    assert second.batch() == ([], [])


def test_batches_hand_out_each_record_once(blocks: Blocks) -> None:
    writer = blocks.writer()
    a = writer.put(b"a" * 200)
    assert [id_ for id_, _ in writer.batch()[0]] == [a]
    b = writer.put(b"b" * 200)
    assert [id_ for id_, _ in writer.batch()[0]] == [b]
    assert writer.get(a) == b"a" * 200
    assert writer.has(a)
    assert not writer.has(block_id(b"c"))


def test_full_segments_are_sealed_and_followed(blocks: Blocks) -> None:
    numbers = iter(range(2, 100))
    writer = BlockWriter(
        blocks.reader, blocks.segment(1, 20_000), next_segment=lambda: blocks.segment(next(numbers), 20_000)
    )
    raws = [os.urandom(9000) for _ in range(10)]
    ids = [writer.put(raw) for raw in raws]
    blocks.commit(writer)
    assert writer.segment.segment_id > 2
    assert all(read_segment(segment_path(blocks.segments, n)).sealed for n in range(1, writer.segment.segment_id))
    reader = blocks.fresh_reader()
    assert [reader.get(id_) for id_ in ids] == raws
    writer.close()
    writer.segment.close()


def test_rely_on(blocks: Blocks) -> None:
    writer = blocks.writer()
    id_ = writer.put(TEXT)
    blocks.commit(writer)
    writer.rely_on([id_])
    assert writer.batch() == ([], [id_])
    with pytest.raises(Corrupt):
        writer.rely_on([block_id(b"nowhere")])


def test_a_block_swept_under_a_running_job_is_written_again(blocks: Blocks) -> None:
    first = blocks.writer(1)
    id_ = first.put(TEXT)
    blocks.commit(first)
    job = blocks.writer(2)
    job.put(TEXT)
    blocks.index.sweep(blocks.index.condemn([id_]))
    assert blocks.commit(job) == [id_]
    assert not blocks.index.has(id_)
    job.put(TEXT)
    assert blocks.commit(job) == []
    assert blocks.index.get(id_) == read_segment(job.segment.path).records[0][1]


def test_a_condemned_block_is_written_again_by_a_put(blocks: Blocks) -> None:
    first = blocks.writer(1)
    id_ = first.put(TEXT)
    blocks.commit(first)
    marked = blocks.index.condemn([id_])
    second = blocks.writer(2)
    second.put(TEXT)
    assert blocks.commit(second) == []
    assert blocks.index.sweep(marked) == []
    assert blocks.fresh_reader().get(id_) == TEXT


def test_every_flipped_byte_of_a_record_is_corrupt(blocks: Blocks) -> None:
    writer = blocks.writer()
    id_ = writer.put(TEXT)
    blocks.commit(writer)
    location = blocks.index.get(id_)
    assert location is not None
    path = writer.segment.path
    whole = path.read_bytes()
    for at in range(location.offset, location.offset + RECORD_BYTES + location.stored_len):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match=id_.hex()) as caught:
            blocks.fresh_reader().get(id_)
        assert f"{location.segment:016x}" in str(caught.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(Corrupt):
        blocks.fresh_reader().get(id_)


def test_verify_finds_bytes_that_do_not_have_their_id(blocks: Blocks) -> None:
    lie = block_id(b"something else")
    segment = blocks.segment(1)
    blocks.index.commit([(lie, segment.append([encode(TEXT, lie)])[0])])
    segment.close()
    assert blocks.reader.get(lie) == TEXT
    with pytest.raises(Corrupt, match="match the block's id"):
        blocks.reader.verify(lie)


def test_a_moved_block_is_found_again(blocks: Blocks) -> None:
    writer = blocks.writer(1)
    id_ = writer.put(TEXT)
    blocks.commit(writer)
    old = blocks.index.get(id_)
    assert old is not None
    segment = blocks.segment(2)
    new = segment.append([encode(TEXT, id_)])[0]
    segment.close()
    answers = iter([old])
    stale = blocks.index.get

    class Moving:
        """An index whose first answer is out of date."""

        def get(self, wanted: bytes) -> object:
            return next(answers, None) or stale(wanted)

    blocks.index.commit([(id_, new)], replace=True)
    writer.segment.path.unlink()
    reader = BlockReader(Moving(), blocks.segments)  # type: ignore[arg-type]
    assert reader.get(id_) == TEXT


def test_a_missing_segment_is_corrupt(blocks: Blocks) -> None:
    writer = blocks.writer(1)
    id_ = writer.put(TEXT)
    blocks.commit(writer)
    writer.segment.path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        blocks.fresh_reader().get(id_)


def test_the_index_can_be_rebuilt_from_segments(blocks: Blocks, tmp_path: Path) -> None:
    writer = blocks.writer()
    ids = writer.put_many(varied(40, 3000))
    blocks.commit(writer)
    before = list(blocks.index.items())
    blocks.index.delete(ids)
    assert list(blocks.index.items()) == []
    blocks.index.commit(read_segment(writer.segment.path, deep=True).records)
    assert list(blocks.index.items()) == before


def test_descriptors_are_bounded_and_survive_eviction_while_reading(blocks: Blocks) -> None:
    placed = []
    for number in range(1, 9):
        writer = blocks.writer(number)
        id_ = writer.put(b"%d" % number * 3000)
        placed.append((id_, writer.batch()[0][0][1]))
    files = SegmentFiles(blocks.segments, limit=2)
    failures: list[BaseException] = []

    def read_all() -> None:
        try:
            for _ in range(30):
                for number, (id_, location) in enumerate(placed, 1):
                    assert files.read(id_, location)[1] == b"%d" % number * 3000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files.open_segments <= 2
    files.close()


def test_the_raw_cache_is_bounded(blocks: Blocks) -> None:
    writer = blocks.writer()
    ids = writer.put_many([os.urandom(1000) for _ in range(100)])
    blocks.commit(writer)
    reader = BlockReader(blocks.index, blocks.segments, raw_cache_bytes=20_000)
    for id_ in ids:
        reader.get(id_)
    raw = reader.statistics().raw
    assert 10 < raw.entries < 20
    assert raw.size_bytes <= raw.limit_bytes == 20_000
    assert reader.cached(ids[-1]) is not None
    assert reader.cached(ids[0]) is None
    reader.close()
    assert reader.statistics().raw.entries == 0


def test_trees_through_the_writer(blocks: Blocks) -> None:
    writer = blocks.writer()
    entries = {key: zlib.crc32(b"%d" % key).to_bytes(4, "big") * 10 for key in range(5000)}
    pointer = radix.build(writer, entries.items(), Geometry(), False)
    pointer = radix.update(writer, writer, pointer, {77: b"changed"}, Geometry(), False)
    blocks.commit(writer)
    reader = blocks.fresh_reader()
    assert dict(radix.scan(reader, pointer)) == entries | {77: b"changed"}
    assert radix.lookup(reader, pointer, 77) == b"changed"
    assert reader.statistics().nodes.hits > 0


def hostile(codec: int, raw_len: int, stored: bytes) -> RecordHeader:
    """A record header whose checksum is right."""
    return RecordHeader(codec, raw_len, len(stored), xxh3(stored), bytes(32))


def test_hostile_frames_are_refused_without_allocating() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(1 << 20))
    packed = zstandard.ZstdCompressor(level=1).compress(TEXT)
    for header, stored in (
        (hostile(ZSTD, RAW_MAX, bomb), bomb),
        (hostile(ZSTD, 1 << 26, bomb), bomb),
        (hostile(ZSTD, RAW_MAX, unsized), unsized),
        (hostile(ZSTD, len(TEXT), packed + b"more"), packed + b"more"),
        (hostile(ZSTD, len(TEXT) - 1, packed), packed),
        (hostile(ZSTD, len(TEXT), packed[:-2]), packed[:-2]),
        (hostile(ZSTD, 10, b"no frame"), b"no frame"),
        (hostile(ZSTD, 10, b""), b""),
        (hostile(2, len(TEXT), packed), packed),
        (hostile(ZSTD, len(TEXT), packed)._replace(checksum=1), packed),
    ):
        with pytest.raises(Corrupt):
            decode(header, stored)
    assert decode(hostile(ZSTD, len(TEXT), packed), packed) == TEXT


def test_what_is_collected_between_two_looks_is_written_again(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    raws = varied(40, 9000)
    first = blocks.writer()
    ids = first.put_many(raws)
    blocks.commit(first)
    main, has, swept = threading.current_thread(), BlockReader.has, list[bytes]()

    def and_then_gone(reader: BlockReader, id_: bytes) -> bool:
        if threading.current_thread() is main and not swept:  # the other threads have seen all of them
            swept.extend(ids)
            blocks.index.delete(ids)
        return has(reader, id_)

    monkeypatch.setattr(BlockReader, "has", and_then_gone)
    second = blocks.writer(2)
    assert second.put_many(raws) == ids
    assert blocks.commit(second) == []
    assert [blocks.fresh_reader().get(id_) for id_ in ids] == raws
    assert swept
