"""Opening the block index of a store, and making it anew when it is lost, damaged or not of this store's state.

An index that names what is not there is worse than none: a block that it claims would never be written again. So
before it is believed, every root that the control log knows must be in it, and every segment that it names must exist.
What a root lacks after a rebuild is lost for real: that is remembered, or every start would rebuild it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cowfs.blocks.index import DATA_FILE, BlockIndex
from cowfs.blocks.reader import SegmentFiles
from cowfs.blocks.rebuild import Rebuilt, rebuild
from cowfs.blocks.segments import segment_ids, segment_path
from cowfs.blocks.suspect import acquit, suspicion
from cowfs.errors import Corrupt

LOST_FILE = "lost-roots"
"""In the index's directory: a digest of the roots that no segment holds."""

_READ_ROOTS = 64
"""Roots whose records are read to see whether the index and the segments are of one time."""


@dataclass(frozen=True, slots=True)
class Reindexed:
    """Why the index was made anew, and what it was made from."""

    reason: str
    found: Rebuilt

    def __str__(self) -> str:
        found = self.found
        text = f"the block index was rebuilt from {found.segments} segments, {found.blocks} blocks: {self.reason}"
        return text + (f"; {len(found.damage)} of the segments' parts are damaged" if found.damage else "")


def open_index(path: Path, segments: Path, roots: Collection[bytes]) -> tuple[BlockIndex, Reindexed | None]:
    """The writable index in the directory ``path``, rebuilt from ``segments`` if need be. Only the owner may.

    ``roots``: those that the control log knows. Raises NoSpace, OSError, Corrupt (a new one is no good either).
    """
    reason = _lost(path, segments, roots) or suspicion(path)
    if reason is None:
        try:
            index = BlockIndex(path, writable=True)
        except Corrupt as error:
            reason = error.message
        else:
            reason = _contradicts(index, segments, roots)
            if reason is None:
                return index, None
            index.close()
    found = reindex(path, segments)
    index = BlockIndex(path, writable=True, create=False)
    _remember(path, _missing(index, roots))
    return index, Reindexed(reason, found)


def reindex(path: Path, segments: Path) -> Rebuilt:
    """Make the index anew. No process may have it open. Raises NoSpace, OSError."""
    if not path.is_dir():
        with suppress(FileNotFoundError):
            path.unlink()
    found = rebuild(segments, path)
    acquit(path)
    return found


def _lost(path: Path, segments: Path, roots: Collection[bytes]) -> str | None:
    try:
        size = (path / DATA_FILE).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        size = 0
    return "it was missing" if not size and (roots or segment_ids(segments)) else None


def _contradicts(index: BlockIndex, segments: Path, roots: Collection[bytes]) -> str | None:
    """Why the index cannot be the one of these segments and roots; None if it can."""
    try:
        for usage in index.usage():
            if not segment_path(segments, usage.segment).exists():
                return f"it names segment {usage.segment:016x}, which does not exist"
        missing = _missing(index, roots)
        if missing and _digest(missing) != _remembered(index.path):
            return f"it lacks root {min(missing).hex()}"
        return _misplaced(index, segments, sorted(set(roots) - missing)[:_READ_ROOTS])
    except Corrupt as error:
        return error.message


def _missing(index: BlockIndex, roots: Collection[bytes]) -> set[bytes]:
    return {root for root in roots if index.get(root) is None}


def _misplaced(index: BlockIndex, segments: Path, roots: Collection[bytes]) -> str | None:
    """Whether no root at all is where the index says: single ones may be damaged."""
    files = SegmentFiles(segments)
    wrong = 0
    try:
        for root in roots:
            location = index.get(root)
            try:
                if location is not None:
                    files.read(root, location)
                    return None
            except (Corrupt, OSError):
                wrong += 1
    finally:
        files.close()
    return "no root is where it says" if wrong > 1 else None


def _digest(missing: Collection[bytes]) -> str:
    return hashlib.blake2b(b"".join(sorted(missing)), digest_size=16).hexdigest()


def _remembered(path: Path) -> str:
    try:
        return (path / LOST_FILE).read_text("ascii", "replace")
    except OSError:
        return ""


def _remember(path: Path, missing: Collection[bytes]) -> None:
    file = path / LOST_FILE
    if missing:
        file.write_text(_digest(missing), "ascii")
    else:
        file.unlink(missing_ok=True)


def remove_index(path: Path) -> None:
    """Forget the index altogether: the next to open the store makes it anew."""
    for name in os.listdir(path) if path.is_dir() else ():
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
