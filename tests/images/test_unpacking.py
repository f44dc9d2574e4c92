"""Reading ahead: the same bytes as without, errors where they are, and no thread that stays."""

from __future__ import annotations

import random
import threading

import pytest

from cowfs.errors import Invalid
from cowfs.settle.unpacking import AHEAD_PIECES, Ahead


class Numbers:
    """A stream of ``size`` bytes, then an error or the end."""

    def __init__(self, size: int, error: BaseException | None = None) -> None:
        self.data = random.Random(size).randbytes(size)
        self.at = 0
        self.error = error

    def read(self, size: int) -> bytes:
        """The next bytes."""
        found = self.data[self.at : self.at + size]
        self.at += len(found)
        if not found and self.error is not None:
            raise self.error
        return found


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 5_000_000])
def test_the_same_bytes(size: int) -> None:
    stream, r, found = Numbers(size), random.Random(1), []
    with Ahead(stream) as ahead:
        while piece := ahead.read(r.choice([1, 512, 70_000, 3 << 20])):
            found.append(piece)
            assert ahead.read(0) == b""
        assert ahead.read(10) == b""
    assert b"".join(found) == stream.data
    assert ahead.read_bytes == size


def test_errors_come_where_they_are() -> None:
    with Ahead(Numbers(1000, Invalid("damaged"))) as ahead:
        assert len(ahead.read(900)) == 900
        with pytest.raises(Invalid, match="damaged"):
            ahead.read(900)
        assert ahead.read(1) == b""


def test_whoever_stops_reading_leaves_no_thread_and_the_rest() -> None:
    stream = Numbers((AHEAD_PIECES + 20) << 20)
    before = threading.active_count()
    with Ahead(stream) as ahead:
        ahead.read(10)
    assert threading.active_count() == before
    assert 0 < stream.at < len(stream.data), "no more than a few pieces were taken"
