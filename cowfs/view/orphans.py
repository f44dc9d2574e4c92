"""Inodes without a name, written down so that a later layer can be replayed without those before it."""

from __future__ import annotations

from collections.abc import Iterator

from cowfs.formats import inode as inode_fmt
from cowfs.formats import journal as j
from cowfs.geometry import PAGE
from cowfs.view.inode import Inode
from cowfs.view.state import State, record_of

_PIECE = 1024 * 1024


def carried(state: State, inode: Inode) -> Iterator[j.Orphan]:
    """The records that hold a regular file without a name: its attributes, then its bytes. Raises Corrupt."""
    bare = record_of(inode, inode_fmt.EMPTY)
    linkable = int(inode.ino in state.linkable)
    yield j.Orphan(inode.ino, 0, linkable, inode_fmt.encode_inode(bare), b"")
    data = state.file(inode)
    for first, last in data.runs(0, -(-inode.size // PAGE)):
        end = min(last * PAGE, inode.size)
        for at in range(first * PAGE, end, _PIECE):
            yield j.Orphan(inode.ino, at, 0, b"", data.read(at, min(_PIECE, end - at)))
