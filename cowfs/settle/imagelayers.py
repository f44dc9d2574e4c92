"""Layers of an image on top of each other: whiteouts, opaque directories, and directories behind symbolic links.

Each layer is read into a tree of its own, which is then laid over what lies below (OCI image specification, "Image
Layer Filesystem Changeset"). An entry below a name that is a symbolic link underneath goes where the link leads, as
container runtimes do it, but never out of the root.
"""

from __future__ import annotations

import os
import stat

from cowfs.errors import Invalid
from cowfs.formats.inode import NAME_MAX
from cowfs.settle.imagetree import ImageTree, Node

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_LINKS_MAX = 40


class LayerTree(ImageTree):
    """One layer. ``below``: the tree that it is laid over, for hard links to what is there."""

    def __init__(self, below: ImageTree) -> None:
        super().__init__()
        self._below = below

    def put(self, path: bytes, node: Node) -> Node:
        """See ImageTree.put; a whiteout takes a name away instead."""
        *above, name = self.split(path) or [b""]
        if not name.startswith(WHITEOUT):
            return super().put(path, node)
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
            found = resolve(self._below.root, self.split(path))
            if found is None:
                raise
            return found


def lay_over(tree: ImageTree, layer: LayerTree) -> None:
    """Change ``tree`` as ``layer`` says, which must not be used again. Raises Invalid."""
    todo = [(tree.root, layer.root)]
    while todo:
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
                old = _led_to(tree, below, old)
            if node.children is None or old is None or old.children is None:
                below.children[name] = node
            else:
                todo.append((old, node))


def _led_to(tree: ImageTree, directory: Node, link: Node) -> Node | None:
    """The directory that a symbolic link in ``directory`` leads to; None: to nothing."""
    names = link.target.split(b"/")
    start = tree.root if link.target.startswith(b"/") else directory
    return resolve(start, names, tree.root, _path_to(tree.root, start))


def _path_to(root: Node, wanted: Node) -> list[Node]:
    """The directories from the root down to one of them, which is the last."""
    todo = [[root]]
    while todo:
        path = todo.pop()
        if path[-1] is wanted:
            return path
        todo += [[*path, each] for each in (path[-1].children or {}).values() if each.children is not None]
    return [root]


def resolve(start: Node, names: list[bytes], root: Node | None = None, path: list[Node] | None = None) -> Node | None:
    """What a path leads to, symbolic links followed on the way and at its end, ``..`` above the root being the root.

    ``path``: the directories from the root down to ``start``. None when there is nothing, or the links do not end.
    """
    root = root or start
    at = list(path or [start])
    left, links = [name for name in reversed(names) if name not in (b"", b".")], 0
    found: Node = at[-1]
    while left:
        name = left.pop()
        if name == b"..":
            del at[1 if len(at) == 1 else -1 :]
            found = at[-1]
            continue
        if found.children is None:
            return None
        below = found.children.get(name)
        if below is None:
            return None
        if stat.S_ISLNK(below.attributes.mode):
            links += 1
            if links > _LINKS_MAX:
                return None
            if below.target.startswith(b"/"):
                at = [root]
            left += [each for each in reversed(below.target.split(b"/")) if each not in (b"", b".")]
            found = at[-1]
            continue
        found = below
        if below.children is not None:
            at.append(below)
    return found
