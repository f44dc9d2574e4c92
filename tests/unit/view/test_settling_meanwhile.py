"""A layer may be settled, in a thread that holds no workspace's lock, between any two steps of a reader."""

from __future__ import annotations

import stat

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.formats.inode import EMPTY, encode_inode
from cowfs.geometry import Geometry
from cowfs.layers.layer import Layer
from cowfs.tree import radix, root
from cowfs.view.inode import Inode
from cowfs.view.state import State, new_inode, record_of

GEOMETRY = Geometry()


class SettlesWhenAsked(dict[int, Inode | None]):
    """A delta whose layer is settled while somebody looks into it."""

    layer: Layer | None = None

    def __contains__(self, ino: object) -> bool:
        found = super().__contains__(ino)
        if self.layer is not None:
            settle(self.layer)
        return found


BLOCKS = MemoryBlocks()


def files(*numbers: int) -> dict[int, Inode | None]:
    """Empty regular files with these numbers."""
    state = State(BLOCKS, GEOMETRY, None)
    return {ino: new_inode(state, ino, stat.S_IFREG | 0o600, 0, 0, 0, 5) for ino in numbers}


def settle(layer: Layer) -> None:
    """Let the layer be read from a root that holds inodes 1 and 2, as all its layers together do."""
    records = [(ino, encode_inode(record_of(inode, EMPTY))) for ino, inode in files(1, 2).items() if inode]
    root_id = root.write_root(BLOCKS, radix.build(BLOCKS, records, GEOMETRY, inline=False))
    layer.settle(root_id, root.read_root(BLOCKS, root_id))


@pytest.mark.interpreted
def test_an_inode_of_a_lower_layer_is_found_while_the_upper_one_settles() -> None:
    lower = Layer("lower", "ws", None, files(1), (), 2, 1)
    delta = SettlesWhenAsked(files(2))
    delta.layer = upper = Layer("upper", "ws", lower, delta, (), 3, 2)
    state = State(BLOCKS, GEOMETRY, upper)
    found = state.find(1)
    assert found is not None
    assert found.ino == 1
    assert upper.table is not None
