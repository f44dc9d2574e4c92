"""A block store in a temporary directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import SegmentWriter, segment_path
from cowfs.blocks.writer import BlockWriter


class Blocks:
    """An index, a reader, and as many writers as asked for, each with a segment of its own."""

    def __init__(self, directory: Path) -> None:
        self.segments = directory / "segments"
        self.segments.mkdir()
        self.index = BlockIndex(directory / "index", writable=True, map_bytes=1 << 28)
        self.reader = BlockReader(self.index, self.segments)
        self._open: list[BlockWriter] = []

    def segment(self, number: int, target_bytes: int = 1 << 27) -> SegmentWriter:
        """A segment of this store."""
        return SegmentWriter(segment_path(self.segments, number), number, target_bytes=target_bytes)

    def writer(self, number: int = 1, threads: int = 2) -> BlockWriter:
        """A writer to segment ``number``."""
        writer = BlockWriter(self.reader, self.segment(number), threads=threads)
        self._open.append(writer)
        return writer

    def commit(self, writer: BlockWriter) -> list[bytes]:
        """End a job: sync, hand in, forget. Returns the ids gone."""
        writer.sync()
        gone = self.index.commit(*writer.batch())
        writer.committed(gone)
        return gone

    def fresh_reader(self) -> BlockReader:
        """A reader with empty caches."""
        return BlockReader(self.index, self.segments)

    def close(self) -> None:
        """Let go of everything."""
        for writer in self._open:
            writer.close()
            writer.segment.close()
        self.reader.close()
        self.index.close()


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[Blocks]:
    """An empty block store."""
    store = Blocks(tmp_path)
    yield store
    store.close()
