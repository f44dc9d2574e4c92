"""Every block that a root needs: what usage figures count and garbage collection keeps."""

from __future__ import annotations

import stat
from collections.abc import Callable

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import BLOCK, TREE, decode_file_block, decode_inode
from cowfs.tree import content, radix
from cowfs.tree.root import read_root

Visit = Callable[[bytes], bool]
"""Called with a block id; True to be shown what lies below it, too."""


def walk_root(blocks: BlockSource, root: bytes, visit: Visit) -> None:
    """Call ``visit`` for the root and every block below it. Raises Corrupt."""
    if not visit(root):
        return
    for _, records in radix.walk(blocks, read_root(blocks, root), visit):
        for _, value in records:
            walk_inode(blocks, value, visit)


def walk_inode(blocks: BlockSource, value: bytes, visit: Visit) -> None:
    """Call ``visit`` for every block that an inode record (at rest) needs. Raises Corrupt."""
    record = decode_inode(value)
    for block in content.list_blocks(blocks, record):
        visit(block)
    if record.content.kind == BLOCK:
        visit(record.content.data)
    elif record.content.kind == TREE:
        for _, entries in radix.walk(blocks, record.content.data, visit):
            if stat.S_ISREG(record.mode):
                for _, entry in entries:
                    visit(decode_file_block(entry)[1])
