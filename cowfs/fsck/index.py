"""What must hold of the block index and the segments, whether or not anything needs a block.

Blocks may be added meanwhile; none may be moved or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.segments import read_segment, segment_ids, segment_path
from cowfs.errors import Corrupt
from cowfs.formats.segment import HEADER_BYTES
from cowfs.fsck.problem import Problem


def check_index(index: BlockIndex, segments: Path) -> Iterator[Problem]:
    """The usage of segments against the blocks in the index, and the segments that it names."""
    try:
        said, real = index.recount()
    except Corrupt as error:
        yield Problem("block index", error.message, "index")
        return
    for segment in sorted(said.keys() | real.keys()):
        a, b = said.get(segment), real.get(segment)
        if a != b:
            what = f"segment {segment:016x}: it counts {a or (0, 0, 0)} blocks and bytes, and names {b or (0, 0, 0)}"
            yield Problem("block index", what, "index-usage")
        if not segment_path(segments, segment).exists():
            yield Problem("block index", f"segment {segment:016x}, which it names, does not exist", "index-place")


def check_segments(index: BlockIndex, segments: Path, *, deep: bool) -> Iterator[Problem]:
    """Each segment file by itself, and against the index. ``deep``: every record is read, and hashed again."""
    for segment in segment_ids(segments):
        where = f"segment {segment:016x}"
        try:
            named = {each.segment: each.blocks for each in index.usage()}.get(segment, 0)
            if not named and segment_path(segments, segment).stat().st_size < HEADER_BYTES:
                continue  # begun and never synced: its next writer begins it anew
            found = read_segment(segment_path(segments, segment), deep=deep)
            matching = sum(index.get(id_) == location for id_, location in found.records) if deep else named
        except FileNotFoundError:
            continue  # collected before this check began, or it is a new one
        except OSError as error:
            yield Problem(where, f"it cannot be read: {error.strerror}", "segment")
            continue
        except Corrupt as error:
            if named:  # else it was begun, and nothing in it synced when the power went
                yield Problem(where, error.message, "segment")
            continue
        if found.segment_id != segment:
            yield Problem(where, f"its header is that of segment {found.segment_id:016x}", "segment")
        # Behind the last block in the index lies what was never synced: power loss leaves anything there.
        end = 1 << 64 if found.sealed or not found.damage else _committed(index, segment)
        for at, what in found.damage:
            if at < end:
                yield Problem(where, f"byte {at}: {what}", "segment")
        if matching < named and not found.damage:
            yield Problem("block index", f"{named - matching} blocks are not where it says in {where}", "index-place")


def _committed(index: BlockIndex, segment: int) -> int:
    """Where the last record of a segment ends that is in the index."""
    ends = (at.offset + at.stored_len for _, at, _ in index.items() if at.segment == segment)
    return max(ends, default=0)
