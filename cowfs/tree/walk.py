"""Every block that a root needs: what usage figures count and garbage collection keeps."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import BLOCK, TREE, decode_file_block, decode_inode
from cowfs.formats.node import LEAF, Leaf, Ref, decode_pointer
from cowfs.tree import content
from cowfs.tree.nodes import load_branch, load_leaf
from cowfs.tree.root import read_root

Enter = Callable[[bytes], bool]
"""Called with a block id; True to be shown what lies below it, too."""


def walk(blocks: BlockSource, root: bytes, enter: Enter) -> None:
    """Call ``enter`` for the root and every block below it. Raises Corrupt, NotFound."""
    if not enter(root):
        return
    for value in _values(blocks, read_root(blocks, root), enter):
        record = decode_inode(value)
        for block in content.list_blocks(blocks, record):
            enter(block)
        if record.content.kind == BLOCK:
            enter(record.content.data)
        elif record.content.kind == TREE:
            file_map = stat.S_ISREG(record.mode)
            for entry in _values(blocks, record.content.data, enter):
                if file_map:
                    enter(decode_file_block(entry)[1])


def _values(blocks: BlockSource, pointer: bytes, enter: Enter) -> Iterator[bytes]:
    """The values of all leaves that ``enter`` lets in."""
    top = decode_pointer(pointer)
    if isinstance(top, Leaf):
        yield from top.values()
        return
    pending: list[Ref] = [] if top is None else [top]
    while pending:
        ref = pending.pop()
        if not enter(ref.id):
            continue
        if ref.kind == LEAF:
            yield from load_leaf(blocks, ref).values()
        else:
            pending += [child.ref for child in reversed(load_branch(blocks, ref).children)]
