"""Mending the block store: the index from what is whole, damaged segments copied out of and put away."""

from __future__ import annotations

from pathlib import Path

from cowfs.blocks.api import Location
from cowfs.blocks.index import DATA_FILE, BlockIndex
from cowfs.blocks.reader import SegmentFiles
from cowfs.blocks.segments import SegmentContents, SegmentWriter, read_segment, segment_ids, segment_path
from cowfs.blocks.suspect import suspicion
from cowfs.errors import Corrupt
from cowfs.indexing import reindex
from cowfs.quarantine import Quarantine
from cowfs.repair.report import Repaired
from cowfs.store import StoreDirectory

_BATCH = 1000  # records copied at a time: 128 MiB at most


def repair_segments(store: StoreDirectory, quarantine: Quarantine) -> list[Repaired]:
    """Make the index name exactly what can be read. Reads every record and hashes it again. Raises NoSpace, OSError."""
    known = {segment_path(store.segments, each) for each in segment_ids(store.segments)}
    done = [
        Repaired(quarantine.name(path), "it is no segment", quarantine.move(path))
        for path in sorted(store.segments.iterdir())
        if path not in known
    ]
    reason = _fault(store)
    found = reindex(store.index, store.segments)
    if reason is not None:
        done.append(Repaired("index", f"made anew from {found.segments} segments, {found.blocks} blocks: {reason}"))
    index = BlockIndex(store.index, writable=True, create=False)
    files = SegmentFiles(store.segments)
    try:
        for segment in segment_ids(store.segments):
            done += _repair_segment(store.segments, segment, index, files, quarantine)
    finally:
        files.close()
        index.close()
    return done


def _fault(store: StoreDirectory) -> str | None:
    """What is wrong with the index as it is; None if that is nothing that shows."""
    if not (store.index / DATA_FILE).exists():
        return "it was missing"
    try:
        index = BlockIndex(store.index, writable=True, create=False)
        try:
            said, real = index.recount()
        finally:
            index.close()
    except Corrupt as error:
        return error.message
    return suspicion(store.index) if said == real else "its sums were wrong"


def _repair_segment(
    segments: Path, segment: int, index: BlockIndex, files: SegmentFiles, quarantine: Quarantine
) -> list[Repaired]:
    path = segment_path(segments, segment)
    listed = read_segment(path, salvage=True)
    good = read_segment(path, deep=True, salvage=True)
    if not good.damage and good.segment_id == segment:
        return []
    mine = [(id_, place) for id_, place in _placed(good, segment) if index.get(id_) == place]
    kept = set(mine)
    lost = [one for one in _placed(listed, segment) if one not in kept and index.get(one[0]) == one[1]]
    if mine:
        _copy(segments, mine, index, files)
    index.delete(id_ for id_, _ in lost)
    files.forget(segment)
    at, what = good.damage[0] if good.damage else (0, f"its header is that of segment {good.segment_id:016x}")
    text = f"byte {at}: {what}; {len(mine)} blocks were copied out of it"
    text += f", {len(lost)} that it should hold are lost" if lost else ""
    return [Repaired(quarantine.name(path), text, quarantine.move(path))]


def _placed(contents: SegmentContents, segment: int) -> list[tuple[bytes, Location]]:
    return [(id_, place._replace(segment=segment)) for id_, place in contents.records]


def _copy(segments: Path, records: list[tuple[bytes, Location]], index: BlockIndex, files: SegmentFiles) -> None:
    """Write records once more, to a new segment, and have the index name them there."""
    number = segment_ids(segments)[-1] + 1
    writer = SegmentWriter(segment_path(segments, number), number)
    moved: list[tuple[bytes, Location]] = []
    try:
        for first in range(0, len(records), _BATCH):
            batch = records[first : first + _BATCH]
            places = writer.append([files.read_stored(id_, place) for id_, place in batch])
            moved += [(id_, place) for (id_, _), place in zip(batch, places, strict=True)]
        writer.seal()
    finally:
        writer.close()
    index.commit(moved, replace=True)
