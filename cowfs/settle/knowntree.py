"""The tree that an image's layers became, read back, so that another layer can be laid over it."""

from __future__ import annotations

import stat

from cowfs.blocks.api import BlockSource
from cowfs.formats.inode import InodeRecord
from cowfs.geometry import PAGE, SECTOR
from cowfs.settle.imagetree import ImageTree, Node
from cowfs.settle.readtree import StoredTree
from cowfs.settle.records import Attributes
from cowfs.tree.content import read_symlink, record_xattrs


def known_tree(blocks: BlockSource, root: bytes) -> ImageTree:
    """The tree of ``root``, made by an import of an image, with its inode numbers; contents are not read.

    Whoever stores it again must hold the root: contents are referred to, not written. Raises Corrupt.
    """
    stored, tree = StoredTree(blocks, root), ImageTree()
    nodes: dict[int, Node] = {}
    directories: dict[bytes, Node] = {}
    for path, ino in stored.walk():
        node = nodes.get(ino)
        if node is None:
            node = nodes[ino] = _node(blocks, stored.inode(ino), ino)
        if node.children is not None:
            directories[path] = node
        tree.count(node.attributes, node.target)
        if not path:
            tree.root = node
            continue
        above, _, name = path.rpartition(b"/")
        node.parent = directories[above]
        assert node.parent.children is not None
        node.parent.children[name] = node
    return tree


def _node(blocks: BlockSource, record: InodeRecord, ino: int) -> Node:
    pages = record.blocks * SECTOR // PAGE if stat.S_ISREG(record.mode) else 0
    xattrs = record_xattrs(blocks, record)
    size = 0 if stat.S_ISDIR(record.mode) else record.size
    node = Node(Attributes(record.mode, record.uid, record.gid, record.mtime, record.rdev, size, pages, xattrs))
    node.ino = ino
    if node.children is None:
        node.content = record.content
    if stat.S_ISLNK(record.mode):
        node.target = read_symlink(blocks, record.content)
    return node
