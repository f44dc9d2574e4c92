"""A file whose map cannot be read fails by itself: what it refuses is in no journal."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from cowfs.errors import CowfsError
from cowfs.formats.inode import EMPTY, TREE, encode_inode
from cowfs.geometry import Geometry
from cowfs.layers.journal import file_path
from cowfs.settle.delta import settle_layer
from cowfs.tree import radix, root
from cowfs.view.inode import SetAttr
from cowfs.view.state import record_of
from cowfs.workspace import Workspace
from tests.support.memory import ME, MemoryWorkspace

GEOMETRY = Geometry(leaf_limit=256, block_log2=12)
BLOCK = 1 << 12
BLOCKS = 40
"""So many that the file map is a tree of blocks of its own."""


@pytest.fixture
def made(tmp_path: Path) -> MemoryWorkspace:
    """A workspace on a settled layer with "whole" and "damaged", a map block of which is lost."""
    made = MemoryWorkspace(tmp_path, GEOMETRY)
    view = made.workspace.view
    for name in (b"whole", b"damaged"):
        ino = view.mknod(1, name, stat.S_IFREG | 0o644, 0, ME).ino
        for number in range(BLOCKS):
            view.write(ino, number * BLOCK, name + b"%d" % number, ME)
    layer = made.checkpoint()
    delta = made.layers[0].delta
    assert delta is not None
    assert delta[1] is not None
    first = [(1, encode_inode(record_of(delta[1], EMPTY)))]
    empty = root.write_root(made.blocks, radix.build(made.blocks, first, made.geometry, inline=False))
    spans = [(str(file_path(made.env.journals, "ws", each[0])), each[1], each[2]) for each in layer.spans]
    settled = settle_layer(made.blocks, made.blocks, made.geometry, empty, spans)
    layer.settle(settled.root, root.read_root(made.blocks, settled.root))
    content = dict(settled.contents)[ino]
    assert content.kind == TREE
    before = set(made.blocks.blocks)
    value = radix.lookup(made.blocks, content.data, BLOCKS - 1)
    assert value is not None
    nodes = {id_ for id_ in before if made.blocks.nodes.get(id_) is not None}
    lost = [id_ for id_ in nodes if value in made.blocks.blocks[id_]]
    assert len(lost) == 1
    del made.blocks.blocks[lost[0]]
    made.blocks.nodes.clear()
    return made


def reopened(made: MemoryWorkspace) -> Workspace:
    """The workspace in a new process, on its settled layer."""
    branch = made.branch.__class__(
        "ws", made.workspace.live, made.layers[-1], made.workspace.head, 4, made.workspace.journal.position
    )
    return Workspace.open(made.env, branch, lambda _: made.layers[-1])[0]


def test_what_a_damaged_file_refuses_does_not_stop_a_replay(made: MemoryWorkspace) -> None:
    live = reopened(made)
    position = live.journal.position
    view = live.view
    found = view.lookup(1, b"damaged")
    whole = view.lookup(1, b"whole")
    assert found is not None
    assert whole is not None
    ino, end = found.ino, BLOCKS * BLOCK
    view.write(whole.ino, 0, b"before", ME)
    for change in (
        lambda: view.write(ino, end - BLOCK, b"x", ME),
        lambda: view.setattr(ino, SetAttr(size=end - BLOCK - 5), ME),
        lambda: view.fallocate(ino, 3, end - BLOCK - 5, 10, ME),
    ):
        with pytest.raises(CowfsError):
            change()
    view.write(whole.ino, 6, b" after", ME)
    branch = made.branch.__class__("ws", live.live, made.layers[-1], live.head, 4, position)
    replayed, _ = Workspace.open(made.env, branch, lambda _: made.layers[-1])
    assert replayed.view.read(whole.ino, 0, 12) == b"before after"
    assert replayed.view.inode(ino).size == found.size
    with pytest.raises((CowfsError, OSError)) as caught:
        replayed.view.read(ino, end - BLOCK, 10)
    assert not isinstance(caught.value, OSError) or caught.value.errno == errno.EIO
