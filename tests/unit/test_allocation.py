"""Which pages of a file in motion count as allocated: st_blocks and SEEK_DATA must agree whatever was cut."""

from itertools import pairwise

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
