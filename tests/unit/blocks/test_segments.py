"""Segment files: append, resume behind a torn tail, refuse damage, seal, list."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs.blocks.codec import encode
from cowfs.blocks.segments import SegmentWriter, read_segment, segment_ids, segment_path
from cowfs.errors import Conflict, Corrupt, NoSpace
from cowfs.formats.checksum import block_id
from cowfs.formats.segment import HEADER_BYTES, RECORD_BYTES, RecordHeader

RAWS = [b"alpha " * 50, b"", os.urandom(300), b"omega " * 50]


def records(raws: list[bytes]) -> list[tuple[RecordHeader, bytes]]:
    """Encoded blocks."""
    return [encode(raw, block_id(raw)) for raw in raws]


def write(path: Path, raws: list[bytes], *, seal: bool = False) -> None:
    """A segment 5 with these blocks."""
    writer = SegmentWriter(path, 5)
    writer.append(records(raws))
    if seal:
        writer.seal()
    writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where segment 5 lies."""
    return segment_path(tmp_path, 5)


def ids(path: Path, *, scan: bool = False) -> list[bytes]:
    """The ids that a segment lists."""
    return [id_ for id_, _ in read_segment(path, scan=scan).records]


def test_listing_is_the_same_by_footer_and_by_scan(path: Path) -> None:
    write(path, RAWS)
    scanned = read_segment(path)
    assert [id_ for id_, _ in scanned.records] == [block_id(raw) for raw in RAWS]
    assert (scanned.sealed, scanned.torn, scanned.damage, scanned.end) == (False, False, (), path.stat().st_size)
    writer = SegmentWriter(path, 5)
    writer.seal()
    writer.seal()
    writer.close()
    for contents in (read_segment(path), read_segment(path, scan=True), read_segment(path, deep=True)):
        assert contents.sealed
        assert contents.records == scanned.records
        assert contents.end == scanned.end


def test_what_was_not_kept_is_cut_off(path: Path) -> None:
    write(path, RAWS[:1])
    writer = SegmentWriter(path, 5)
    for kept in (1, 2):
        writer.append(records(RAWS[2:]))
        writer.drop()
        assert (path.stat().st_size, len(list(writer.records()))) == (writer.size, kept)
        writer.append(records(RAWS[kept : kept + 1]))
        writer.keep()
    writer.drop()
    writer.seal()
    writer.drop()
    writer.close()
    assert ids(path) == [block_id(raw) for raw in RAWS[:3]]
    assert read_segment(path, deep=True).sealed


def test_resume_goes_on(path: Path) -> None:
    write(path, RAWS[:2])
    writer = SegmentWriter(path, 5)
    assert [id_ for id_, _ in writer.records()] == [block_id(raw) for raw in RAWS[:2]]
    writer.append(records(RAWS[2:]))
    writer.close()
    assert ids(path) == [block_id(raw) for raw in RAWS]


def test_every_torn_tail_is_cut(path: Path) -> None:
    write(path, RAWS)
    whole = path.read_bytes()
    ends = [location.offset + RECORD_BYTES + location.stored_len for _, location in read_segment(path).records]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        writer = SegmentWriter(path, 5)
        kept = sum(end <= cut for end in ends)
        assert len(list(writer.records())) == kept
        assert path.stat().st_size == (ends[kept - 1] if kept else HEADER_BYTES)
        writer.close()


def test_zeros_behind_the_last_record_are_a_torn_tail(path: Path) -> None:
    write(path, RAWS)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000))
    contents = read_segment(path)
    assert (contents.torn, contents.damage, contents.end) == (True, (), len(whole))


def test_every_flipped_bit_before_the_last_record_is_damage_and_nothing_is_cut(path: Path) -> None:
    write(path, RAWS)
    whole = path.read_bytes()
    last = read_segment(path).records[-1][1].offset
    for at in range(HEADER_BYTES, last, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        contents = read_segment(path)
        assert len(contents.damage) == 1
        assert len(contents.records) == len(RAWS) - 1
        with pytest.raises(Corrupt, match="damaged at byte"):
            SegmentWriter(path, 5)
        assert path.stat().st_size == len(whole)


def test_damage_in_a_sealed_segment_is_found_by_a_scan(path: Path) -> None:
    write(path, RAWS, seal=True)
    whole = bytearray(path.read_bytes())
    whole[read_segment(path).records[-1][1].offset + RECORD_BYTES] ^= 1
    path.write_bytes(whole)
    assert read_segment(path).damage == ()
    contents = read_segment(path, scan=True)
    assert len(contents.damage) == 1
    assert len(contents.records) == len(RAWS) - 1


def test_a_segment_with_a_damaged_footer_is_scanned(path: Path) -> None:
    write(path, RAWS, seal=True)
    end = read_segment(path).end
    whole = path.read_bytes()
    for at in (end, end + 20, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        contents = read_segment(path)
        assert not contents.sealed
        assert [id_ for id_, _ in contents.records] == [block_id(raw) for raw in RAWS]


def test_wrong_hash_is_found_by_a_deep_scan_only(path: Path) -> None:
    header, stored = encode(b"x" * 40, block_id(b"other"))
    writer = SegmentWriter(path, 5)
    writer.append([(header, stored), *records(RAWS)])
    writer.close()
    assert read_segment(path).damage == ()
    assert len(read_segment(path, deep=True).damage) == 1


def test_refusals(path: Path, tmp_path: Path) -> None:
    write(path, RAWS, seal=True)
    with pytest.raises(Conflict, match="sealed"):
        SegmentWriter(path, 5)
    other = segment_path(tmp_path, 6)
    other.write_bytes(path.read_bytes())
    with pytest.raises(Corrupt, match="names segment"):
        SegmentWriter(other, 6)
    other.write_bytes(b"no segment" * 10)
    with pytest.raises(Corrupt, match=other.name):
        read_segment(other)
    writer = SegmentWriter(segment_path(tmp_path, 7), 7)
    writer.seal()
    with pytest.raises(Conflict):
        writer.append(records(RAWS))
    writer.close()


def test_full_at_the_target(tmp_path: Path) -> None:
    writer = SegmentWriter(segment_path(tmp_path, 1), 1, target_bytes=500)
    assert not writer.full
    writer.append(records([os.urandom(500)]))
    assert writer.full
    writer.close()


def test_names(tmp_path: Path) -> None:
    for name in ("0000000000000010.seg", "00000000000000ff.seg", "x.seg", "000000000000001.seg", "other"):
        (tmp_path / name).touch()
    assert segment_ids(tmp_path) == [16, 255]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_append_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    writer = SegmentWriter(path, 5)
    writer.append(records(RAWS[:1]))
    real: Callable[..., int] = os.pwritev

    def half(fd: int, buffers: list[bytes], offset: int) -> int:
        real(fd, buffers[:1], offset)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", half)
        with pytest.raises(OSError if code == errno.EIO else NoSpace):
            writer.append(records(RAWS[1:]))
    assert path.stat().st_size == writer.size
    writer.append(records(RAWS[1:]))
    writer.close()
    assert ids(path) == [block_id(raw) for raw in RAWS]


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., int] = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: real(fd, [b"".join(buffers)[:70]], offset))
    write(path, RAWS, seal=True)
    assert ids(path, scan=True) == [block_id(raw) for raw in RAWS]
