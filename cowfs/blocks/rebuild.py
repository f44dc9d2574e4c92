"""Making the block index anew from the segments: what every sealed one says in its footer, and what a scan finds.

The new index is built in a directory of its own, synced, and takes the old one's place by one rename: whoever is
killed meanwhile leaves the old one, or the new one whole. No process may have the index open.

Why everything that a segment holds may come back, condemned blocks and such as were swept already too: a block is
immutable and named by its content, so what comes back is never wrong, only not needed; the next garbage collection
finds it again. Nobody takes a block that is there for a sign that those below it are there as well.
Why all of it may be relied on: a footer is written after the records before it were synced, records without a footer
are read and checked one by one, and each segment is synced before the index is.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import lmdb

from cowfs.blocks.api import Location
from cowfs.blocks.environment import LOCK_FILE, is_full
from cowfs.blocks.index import DATA_FILE, MAP_BYTES, IndexMaker
from cowfs.blocks.reader import SegmentFiles
from cowfs.blocks.segments import read_segment, segment_ids, segment_path
from cowfs.errors import Corrupt, NoSpace

SCRATCH = "new"
"""The directory within the index's in which it is made: on the same filesystem in any case."""

_PER_TRANSACTION = 100_000

Progress = Callable[[int, int], None]
"""Called with (segments read, blocks found) after each segment."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """``blocks``: in the new index; ``copies``: records of blocks that it has elsewhere.

    ``damage``: (segment id, what is wrong with it); its other records are in the index.
    """

    segments: int
    blocks: int
    copies: int
    damage: tuple[tuple[int, str], ...]


def rebuild(
    segments_dir: Path, index_path: Path, *, map_bytes: int = MAP_BYTES, progress: Progress = lambda *_: None
) -> Rebuilt:
    """Make the index in the directory ``index_path`` anew, durably, from the segments in ``segments_dir``.

    Raises NoSpace, OSError; the old index, if there is one, stays as it is then.
    """
    scratch = index_path / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(mode=0o700, parents=True)
        found = _build(segments_dir, scratch, map_bytes, progress)
        # Readers of the old index are gone, and their slots are not those of the new one.
        with suppress(FileNotFoundError):
            (index_path / LOCK_FILE).unlink()
        os.rename(scratch / DATA_FILE, index_path / DATA_FILE)
        for directory in (index_path, index_path.parent):
            _sync(directory, os.O_DIRECTORY)
    except lmdb.Error as error:
        if not is_full(error, index_path):
            raise
        raise NoSpace(f"block index {index_path}: {error}", hint="free some space, then try again") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("no space left to make the block index", hint="free some space, then try again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _build(segments_dir: Path, scratch: Path, map_bytes: int, progress: Progress) -> Rebuilt:
    files = SegmentFiles(segments_dir)
    damage: list[tuple[int, str]] = []
    segments = segment_ids(segments_dir)
    copies = 0
    with closing(files), IndexMaker(scratch, map_bytes) as maker:
        for number, segment in enumerate(segments, 1):
            records = _records(segments_dir, segment, damage)
            for first in range(0, len(records), _PER_TRANSACTION):
                for id_, old, new in maker.add(records[first : first + _PER_TRANSACTION]):
                    copies += 1
                    # The newer one, if it is whole: so what was copied out of a segment leaves nothing needed there.
                    if _good(files, id_, new):
                        maker.replace(id_, old, new)
            progress(number, maker.blocks)
        maker.finish()
    return Rebuilt(len(segments), maker.blocks, copies, tuple(damage))


def _records(segments_dir: Path, segment: int, damage: list[tuple[int, str]]) -> list[tuple[bytes, Location]]:
    """What a segment file holds, synced; what cannot be read of it goes to ``damage``."""
    path = segment_path(segments_dir, segment)
    try:
        contents = read_segment(path, salvage=True)
        _sync(path)
    except OSError as error:
        damage.append((segment, f"it cannot be read: {error.strerror}"))
        return []
    damage += [(segment, f"byte {at}: {what}") for at, what in contents.damage]
    # A reader goes by the name of the file, whatever its header says.
    return [(id_, location._replace(segment=segment)) for id_, location in contents.records]


def _good(files: SegmentFiles, id_: bytes, location: Location) -> bool:
    try:
        files.read(id_, location)
    except (Corrupt, OSError):
        return False
    return True


def _sync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
