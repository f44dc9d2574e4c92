"""What an inode counts towards a quota, found by looking at every inode: the running counters must agree."""

from __future__ import annotations

import stat

from cowfs.geometry import ROOT_INO, SECTOR
from cowfs.view.reading import ReadView


def counted(view: ReadView) -> tuple[int, int]:
    """(inodes, bytes) of everything in a view, files without a name included."""
    state = view.state
    seen = dict(state.orphans)
    waiting = [ROOT_INO]
    while waiting:
        ino = waiting.pop()
        if ino in seen:
            continue
        seen[ino] = inode = state.inode(ino)
        if stat.S_ISDIR(inode.mode):
            waiting += [entry.ino for entry in state.directory(inode).entries(2)]
    return len(seen), sum(inode.blocks for inode in seen.values()) * SECTOR


def check_counters(view: ReadView) -> None:
    """The running counters are what a full look finds."""
    found = view.statistics()
    assert (found.inodes, found.used_bytes) == counted(view)
