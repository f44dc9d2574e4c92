"""A snapshot must stay while a workspace is on its way to it: the journal names it before the control log does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest

from cowfs.compare import Changes
from cowfs.errors import Busy
from cowfs.results import Handle
from cowfs.subtrees import Removed
from cowfs.transport import Transport
from tests.support.lab import Lab


class During(Transport):
    """A transport that does something when the view has been swapped and the control log does not know."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def flush_writable(self) -> None:
        """Nothing is mapped."""

    def mount_points(self) -> list[tuple[str, int]]:
        """Nothing is mounted."""
        return []

    def restoring(self) -> AbstractContextManager[None]:
        """Nothing is handed out."""
        return nullcontext()

    def begin_restore(self, changes: Changes) -> None:
        """Nothing is cached."""

    def invalidate(self, changes: Changes) -> list[Handle]:
        """The restore has happened in the journal."""
        self.act()
        return []

    def removed(self, gone: Sequence[Removed], directory: int) -> None:
        """Nothing is cached."""

    def made(self, parent: int, name: bytes) -> None:
        """Nothing is cached."""


def two_snapshots(lab: Lab) -> tuple[str, str]:
    """Two snapshots of ws, of which the second is its head."""
    found = []
    for name in ("a", "b"):
        lab.files("ws").create(name)
        found.append(lab.engine.checkpoint("ws", name).snapshot.id)
    return found[0], found[1]


def test_the_target_of_a_restore_under_way_cannot_be_removed(lab: Lab) -> None:
    first, _ = two_snapshots(lab)
    lab.engine.fork("ws@latest", "fork")
    refused = []

    def act() -> None:
        for reference in (first, "ws"):
            with pytest.raises(Busy) as caught:
                lab.engine.remove(reference, force=True)
            refused.append(caught.value)

    workspace = lab.workspace("fork")
    workspace.transport = During(act)
    lab.engine.restore("fork", first)
    workspace.transport = None
    assert len(refused) == 2
    lab.engine.remove(first)
    lab.reopen()
    assert lab.files("fork").names() == ["a"]


def test_after_a_restore_that_failed_half_way_its_target_can_be_removed_once_all_know(lab: Lab) -> None:
    first, _ = two_snapshots(lab)

    def act() -> None:
        raise OSError(5, "the kernel does not answer")

    workspace = lab.workspace("ws")
    workspace.transport = During(act)
    with pytest.raises(OSError, match="does not answer"):
        lab.engine.restore("ws", first)
    workspace.transport = None
    assert lab.files("ws").names() == ["a"]
    with pytest.raises(Busy):
        lab.engine.remove(first)
    lab.engine.checkpoint("ws", "tells what is owed")
    lab.engine.remove(first)
    lab.reopen()
    assert lab.files("ws").names() == ["a"]


def test_a_refused_restore_holds_nothing(lab: Lab) -> None:
    first, _ = two_snapshots(lab)

    class Mounted(During):
        def mount_points(self) -> list[tuple[str, int]]:
            return [("b", lab.files("ws").ino("b"))]

    workspace = lab.workspace("ws")
    workspace.transport = Mounted(lambda: None)
    with pytest.raises(Busy, match="detach"):
        lab.engine.restore("ws", first)
    workspace.transport = None
    lab.engine.remove(first)
