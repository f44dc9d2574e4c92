"""Which pages of a file in motion count as allocated: st_blocks and SEEK_DATA must agree whatever was cut."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, SupportsIndex

import pytest

from cowfs.geometry import PAGE
from cowfs.view.file import ZERO, OverlayFile, fresh_pages
from cowfs.view.inode import Owner


@pytest.mark.parametrize("size", [1, 512, PAGE - 1])
def test_a_page_cut_before_what_was_written_to_it_stays_allocated(size: int) -> None:
    data = OverlayFile(Owner(), None, 0, [])
    assert fresh_pages(data, PAGE - 1, 3 * PAGE) == 3
    data.put(PAGE - 1, 3 * PAGE, ZERO, 0)
    data.truncate(size)
    assert list(data.runs(0, 3)) == [(0, 1)]
    data.truncate(0)
    assert list(data.runs(0, 3)) == []


def test_what_put_says_is_newly_allocated_is_what_runs_shows() -> None:
    data = OverlayFile(Owner(), None, 0, [])
    total = 0
    for start, end in pairwise([0, 10, 5000, 4096, 20_000, 12_288, 40_960, 40_961]):
        low, high = min(start, end), max(start, end)
        total += fresh_pages(data, low, high)
        data.put(low, high, ZERO, 0)
        assert sum(b - a for a, b in data.runs(0, 20)) == total


@pytest.mark.parametrize("seed", range(20))
def test_small_pieces_and_holes_allocate_what_a_set_of_pages_says(seed: int) -> None:
    """A third of the pages lies over a base with pieces and holes of its own."""
    chance, top = random.Random(seed), 12
    model: set[int] = set()
    data = OverlayFile(Owner(), None, 0, [])
    for turn in range(300):
        if turn == 100:
            data = OverlayFile(Owner(), data, 8 * PAGE, [])
            model = {page for page in model if page < 8}
        start = chance.randrange(top * PAGE)
        end = min(start + chance.choice([1, 100, 3000, PAGE, 3 * PAGE]), top * PAGE)
        pages = set(range(start // PAGE, -(-end // PAGE)))
        if chance.random() < 0.2:
            freed = set(range(-(-start // PAGE), end // PAGE if end < top * PAGE else top))
            assert data.punch(start, end, top * PAGE) == len(model & freed)
            model -= freed
        else:
            assert fresh_pages(data, start, end) == len(pages - model)
            data.put(start, end, ZERO, 0)
            model |= pages
        assert {page for a, b in data.runs(0, top) for page in range(a, b)} == model
        assert all(one[1] < other[0] for one, other in pairwise(data.runs(0, top)))


class _Looks(list[Any]):
    """A list that counts how often an item is looked at."""

    looked = 0

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        self.looked += 1
        return super().__getitem__(index)


def test_a_page_of_thousands_of_pieces_is_looked_at_as_quickly_as_a_page_of_one() -> None:
    """As is written by a program that writes single bytes."""
    data = OverlayFile(Owner(), None, 0, [])
    for at in range(PAGE):
        data.put(at, at + 1, ZERO, 0)
    assert data.map is not None
    looks = data.map.extents = _Looks(data.map.extents)
    assert fresh_pages(data, PAGE - 2, PAGE + 1) == 1
    assert fresh_pages(data, 0, 10) == 0
    assert looks.looked < 20
