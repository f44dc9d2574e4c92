"""Which process writes to which segment. Owner side; thread-safe."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from cowfs.blocks.segments import segment_ids, segment_path
from cowfs.errors import Corrupt
from cowfs.formats.segment import HEADER_BYTES, TRAILER_BYTES, decode_trailer


class SegmentPool:
    """Gives each writer a segment of its own: an unsealed one that an earlier writer left, else a new one.

    A segment is taken until it is released; release it only when its writer's process is known to be gone, or to
    have closed it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        ids = segment_ids(directory)
        self._next = max(ids, default=0) + 1
        self._open = [segment_id for segment_id in ids if not _is_sealed(segment_path(directory, segment_id))]
        self._taken: set[int] = set()

    def take(self) -> tuple[int, Path]:
        """A segment to write to: (id, path). A new one's file does not exist yet."""
        with self._lock:
            if self._open:
                segment_id = self._open.pop(0)
            else:
                segment_id = self._next
                self._next += 1
            self._taken.add(segment_id)
            return segment_id, segment_path(self.directory, segment_id)

    def release(self, segment_id: int) -> None:
        """Its writer is done with a segment; it goes on to the next writer unless it is sealed."""
        path = segment_path(self.directory, segment_id)
        with self._lock:
            self._taken.discard(segment_id)
            if path.exists() and not _is_sealed(path) and segment_id not in self._open:
                self._open.append(segment_id)

    def refuse(self, segment_id: int) -> None:
        """A segment cannot be continued (it is damaged): nobody gets it any more."""
        with self._lock:
            self._taken.discard(segment_id)

    def retire(self, segment_id: int) -> bool:
        """Nobody gets an unsealed segment any more, so that what is alive in it can be copied. False: it has a
        writer, or is sealed. Everything that its writers have handed in is in the index when this returns.
        """
        with self._lock:
            if segment_id not in self._open:
                return False
            self._open.remove(segment_id)
            return True

    def in_use(self) -> frozenset[int]:
        """Segments that a writer has now, or may go on with: never to be removed."""
        with self._lock:
            return frozenset(self._taken) | frozenset(self._open)


def _is_sealed(path: Path) -> bool:
    """Whether a segment ends with a footer; only its trailer is read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size < HEADER_BYTES + TRAILER_BYTES:
            return False
        decode_trailer(os.pread(fd, TRAILER_BYTES, size - TRAILER_BYTES), size)
    except Corrupt:
        return False
    finally:
        os.close(fd)
    return True
