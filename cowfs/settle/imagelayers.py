"""Layers of an image on top of each other: whiteouts, opaque directories, and directories behind symbolic links.

Each layer is read into a tree of its own, which is then laid over what lies below (OCI image specification, "Image
Layer Filesystem Changeset"). An entry below a name that is a symbolic link underneath goes where the link leads, as
container runtimes do it, but never out of the root.
"""

from __future__ import annotations

import os
import stat
from itertools import count

from cowfs.errors import Invalid
from cowfs.formats.inode import NAME_MAX
from cowfs.settle.imagetree import ImageTree, Node
from cowfs.settle.importer import Progress

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_LINKS_MAX = 40
_STEPS_MAX = 4096  # names of one path, those in the links on the way included


class LayerTree(ImageTree):
    """One layer. ``below``: the tree that it is laid over, for hard links to what is there."""

    def __init__(self, below: ImageTree) -> None:
        super().__init__()
        self._below = below
        self.entries = below.entries

    def put(self, path: bytes, node: Node) -> Node:
        """See ImageTree.put; a whiteout takes a name away instead."""
        *above, name = self.split(path) or [b""]
        if not name.startswith(WHITEOUT):
            return super().put(path, node)
        self.count()
        directory = self.directory(above, path)
        gone = name[len(WHITEOUT) :]
        if name == OPAQUE:
            directory.opaque = True
        elif gone in (b"", b".", b"..") or len(gone) > NAME_MAX:
            raise Invalid(f"{os.fsdecode(path)!r} is a whiteout of nothing")
        elif not gone.startswith(WHITEOUT):  # others are what a union filesystem keeps for itself
            directory.whiteouts.add(gone)
        return node

    def find(self, path: bytes) -> Node:
        """See ImageTree.find; what this layer does not have is looked for underneath."""
        try:
            return super().find(path)
        except Invalid:
            found = resolve(self._below.root, self._below.root, self.split(path))
            if found is None:
                raise
            return found


def lay_over(tree: ImageTree, layer: LayerTree, progress: Progress) -> None:
    """Change ``tree`` as ``layer`` says, which must not be used again. ``progress`` is told of directories.

    Raises Invalid.
    """
    tree.entries = layer.entries
    todo = [(tree.root, layer.root)]
    for done in count(1):
        if not todo:
            return
        if not done % 1024:
            progress(done, 0)
        below, above = todo.pop()
        assert below.children is not None
        assert above.children is not None
        if above.described:
            below.attributes = above.attributes
        if above.opaque:
            below.children.clear()
        for name in above.whiteouts:
            below.children.pop(name, None)
        for name, node in above.children.items():
            old = below.children.get(name)
            if node.children is not None and old is not None and old.target and not node.described:
                old = resolve(tree.root, below, old.target.split(b"/"), absolute=old.target.startswith(b"/"))
            if node.children is None or old is None or old.children is None:
                below.children[name] = node
                node.parent = below
            else:
                todo.append((old, node))


def resolve(root: Node, start: Node, names: list[bytes], *, absolute: bool = False) -> Node | None:
    """What a path leads to from the directory ``start`` (``absolute``: from the root), symbolic links followed on the
    way and at its end, ``..`` above the root being the root. None when there is nothing, or the links do not end.
    """
    found = root if absolute else start
    left, links = names[::-1], 0
    for _ in range(_STEPS_MAX):
        if not left:
            return found
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b".." and found.children is not None:
            found = found.parent or root
            continue
        below = None if found.children is None else found.children.get(name)
        if below is None:
            return None
        if not stat.S_ISLNK(below.attributes.mode):
            found = below
            continue
        links += 1
        if links > _LINKS_MAX:
            return None
        if below.target.startswith(b"/"):
            found = root
        left += reversed(below.target.split(b"/"))
    return None
