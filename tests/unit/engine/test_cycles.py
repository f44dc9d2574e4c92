"""What nobody uses any more goes at once: a worker looks for reference cycles seldom, since that stops its readers."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from cowfs.view import directory, file
from tests.support.lab import Lab


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing looks for cycles but the test."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def cycles() -> Counter[str]:
    """How many of our objects are only kept by cycles, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    return Counter(type(kept).__name__ for kept in gc.garbage if type(kept).__module__.startswith("cowfs"))


@pytest.mark.usefixtures("uncollected")
def test_a_long_life_of_a_workspace_leaves_no_cycles(lab: Lab) -> None:
    """Over enough layers that overlays are merged, of what was frozen and of what a restore dropped."""
    lab.files("ws").mkdir("d")
    made = ""
    for number in range(max(file.DEPTH_MAX, directory.DEPTH_MAX) + 4):
        lab.files("ws").write("f", b"%d" % number, number)
        lab.files("ws").create(f"d/{number}")
        made = lab.engine.checkpoint("ws", "").snapshot.id
    for _ in range(2):
        lab.files("ws").write("f", b"dropped")
        lab.files("ws").create("d/dropped")
        lab.engine.restore("ws", made, discard=True)
    lab.engine.settle()
    lab.engine.fork(made, "fork")
    lab.files("fork").write("f", b"other")
    lab.files("fork").create("d/other")
    lab.engine.remove("fork")
    lab.files("ws").write("f", b"live")
    lab.engine.remove("ws", force=True)
    assert not cycles()
