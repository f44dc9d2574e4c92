"""A filesystem tree that is put together entry by entry, and becomes inodes and directories at the end.

Contents are stored as they come; numbers are given at the end, in the order in which an import of a directory gives
them (cowfs.settle.numbering), so that equal trees give equal roots whatever they come from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from cowfs.blocks.api import BlockSink
from cowfs.errors import Invalid
from cowfs.formats.inode import EMPTY, NAME_MAX, XATTRS_MAX, Content, encode_xattrs
from cowfs.geometry import PAGE, ROOT_INO, Geometry
from cowfs.settle.numbering import DEFAULT_NUMBERING, Following, numbering
from cowfs.settle.records import Attributes, allocated_pages, encode, store_directory
from cowfs.tree import radix
from cowfs.tree.root import write_root

DEPTH_MAX = 1_024
"""Directories above each other, at most."""

ENTRIES_MAX = 20_000_000
"""Entries of all layers, with the directories that they imply, at most; a KiB of attributes counts as one more."""

ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")

IMPLIED = Attributes(stat.S_IFDIR | 0o755, 0, 0, 0)
"""Of directories that nothing describes."""


class Node:
    """An inode to be. ``children``: of a directory, by name; ``target``: of a symbolic link; ``ino``: 0 before it has a
    number; ``links``: the (directory's number, name) found by the storing that goes on; ``parent``: the directory
    that a directory is in, None of the root.

    Of a directory in one layer of an image, ``described``: an entry says what it is; ``opaque``: nothing below it stays
    of what lies under this layer; ``whiteouts``: names that go.
    """

    __slots__ = (
        "attributes", "children", "content", "described", "ino", "links", "opaque", "parent", "target", "whiteouts",
    )  # fmt: skip

    def __init__(self, attributes: Attributes, *, described: bool = True) -> None:
        self.attributes = attributes
        self.content: Content = EMPTY
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(attributes.mode) else None
        self.parent: Node | None = None
        self.target = b""
        self.ino = 0
        self.links: list[tuple[int, bytes]] = []
        self.described = described
        self.opaque = False
        self.whiteouts: set[bytes] = set()


class ImageTree:
    """The tree; its root exists from the start. ``entries``: so many were put so far, see :data:`ENTRIES_MAX`."""

    def __init__(self) -> None:
        self.root = Node(IMPLIED, described=False)
        self.entries = 0

    def count(self, attributes: Attributes = IMPLIED, target: bytes = b"") -> None:
        """One more entry. Raises Invalid when there are too many."""
        size = len(target) + sum(len(name) + len(value) for name, value in attributes.xattrs)
        self.entries += 1 + size // 1024
        if self.entries > ENTRIES_MAX:
            raise Invalid(
                f"there are more than {ENTRIES_MAX} entries and directories, or too much of extended attributes",
                hint="Unpack it with other tools, and import the directory.",
            )

    def split(self, path: bytes) -> list[bytes]:
        """The names in a path of an entry. Raises Invalid for one that leaves the tree, or that no filesystem has."""
        if path.startswith(b"/"):
            raise Invalid(f"{os.fsdecode(path)!r} is an absolute path")
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if b".." in names:
            raise Invalid(f"{os.fsdecode(path)!r} leads out of the tree")
        if len(names) > DEPTH_MAX or any(len(name) > NAME_MAX for name in names):
            raise Invalid(f"{os.fsdecode(path[:100])!r}… is too long")
        return names

    def find(self, path: bytes) -> Node:
        """What a path names. Raises Invalid when there is nothing."""
        node = self.root
        for name in self.split(path):
            below = None if node.children is None else node.children.get(name)
            if below is None:
                raise Invalid(f"{os.fsdecode(path)!r} is not there")
            node = below
        return node

    def put(self, path: bytes, node: Node) -> Node:
        """Give ``node`` this name, making directories on the way; what had it before loses it. The node that has it
        then: a directory stays the one that it was, with new attributes. Raises Invalid."""
        names = self.split(path)
        self.count(node.attributes, node.target)
        if not names:
            if node.children is None:
                raise Invalid("the root is no directory")
            self.root.attributes, self.root.described = node.attributes, True
            return self.root
        directory = self.directory(names[:-1], path)
        children = directory.children
        assert children is not None
        old = children.get(names[-1])
        if old is not None and old.children is not None:
            if node.children is None:
                raise Invalid(f"{os.fsdecode(path)!r} is a directory already")
            old.attributes, old.described = node.attributes, True
            return old
        children[names[-1]] = node
        node.parent = directory
        return node

    def directory(self, names: list[bytes], path: bytes) -> Node:
        """The directory that is reached by ``names``, made if need be. Raises Invalid, naming ``path``."""
        node = self.root
        for name in names:
            assert node.children is not None
            below = node.children.get(name)
            if below is None:
                self.count()
                below = node.children[name] = Node(IMPLIED, described=False)
                below.parent = node
            if below.children is None:
                raise Invalid(f"{os.fsdecode(path)!r} lies below something that is no directory")
            node = below
        return node

    def store(
        self, writer: BlockSink, geometry: Geometry, progress: Callable[[int, int], None], next_ino: int = 0
    ) -> Stored:
        """Number what has no number yet, and store everything. ``next_ino``: numbers begin there, since a tree was
        stored before; 0: they are those of an import. Raises NoSpace (too many names with one directory key)."""
        return _Storing(writer, geometry, progress, next_ino).run(self.root)


class Stored:
    """What became of a tree: see cowfs.settle.importer.ImportResult."""

    def __init__(self) -> None:
        self.root = b""
        self.files = self.bytes = self.logical_bytes = self.next_ino = 0


class _Storing:
    def __init__(
        self, writer: BlockSink, geometry: Geometry, progress: Callable[[int, int], None], next_ino: int
    ) -> None:
        self._writer = writer
        self._geometry = geometry
        self._progress = progress
        self._numbers = numbering(DEFAULT_NUMBERING) if not next_ino else Following(next_ino)
        self._seen: set[Node] = set()
        self._table: dict[int, bytes] = {}
        self._done = Stored()

    def run(self, root: Node) -> Stored:
        root.ino = ROOT_INO
        files: list[Node] = []
        todo: list[tuple[Node, bytes]] = [(root, b"")]
        while todo:
            directory, path = todo.pop()
            todo += reversed(self._number(directory, path, files))
        for node in files:
            self._record(node, node.content, len(node.links))
        done = self._done
        done.next_ino = self._numbers.highest + 1
        table = radix.build(self._writer, sorted(self._table.items()), self._geometry, inline=False)
        done.root = write_root(self._writer, table)
        self._progress(done.files, done.bytes)
        return done

    def _number(self, directory: Node, path: bytes, files: list[Node]) -> list[tuple[Node, bytes]]:
        """Number what is in a directory and store it; the directories in it, with their paths."""
        assert directory.children is not None
        numbers = self._numbers.enter(path)
        prefix = path + b"/" if path else b""
        entries, below = [], []
        for name in sorted(directory.children):
            node = directory.children[name]
            if node not in self._seen:
                self._seen.add(node)
                node.links = []
                node.ino = node.ino or numbers.next(name)
                if node.children is None:
                    files.append(node)
            node.links.append((directory.ino, name))
            entries.append((name, node.ino, stat.S_IFMT(node.attributes.mode) >> 12))
            if node.children is not None:
                below.append((node, prefix + name))
        content, nlink = store_directory(self._writer, self._geometry, entries, prefix)
        self._record(directory, content, nlink)
        return below

    def _record(self, node: Node, content: Content, nlink: int) -> None:
        attributes = node.attributes
        self._table[node.ino] = encode(self._writer, self._geometry, attributes, node.links, content, nlink)
        pages = allocated_pages(attributes)
        done = self._done
        done.bytes += pages * PAGE if stat.S_ISREG(attributes.mode) else 0
        done.files += 1
        done.logical_bytes += pages * PAGE
        if not done.files % 1024:
            self._progress(done.files, done.bytes)


def checked_xattrs(xattrs: tuple[tuple[bytes, bytes], ...], path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Those that a filesystem keeps. Raises Invalid when they are too large, or have names that none has."""
    kept = tuple((name, value) for name, value in xattrs if _has_namespace(name))
    if any(not 0 < len(name) <= NAME_MAX for name, _ in kept) or (kept and len(encode_xattrs(kept)) > XATTRS_MAX):
        raise Invalid(f"{os.fsdecode(path)!r} has too many extended attributes")
    return kept


def _has_namespace(name: bytes) -> bool:
    return name.startswith((b"user.", b"security.", b"trusted.")) or name in ACLS
