"""A layer: the changes since a parent layer, frozen, or settled into a root.

A layer's ``delta`` is never mutated once it is frozen. When it is settled, in a thread that holds no
workspace's lock, ``table`` appears first, then the delta goes, then the parent: a reader that takes
``parent`` before ``delta`` (:attr:`Layer.below`) either finds both, or the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowfs.formats.control_fields import Span
from cowfs.view.inode import Inode

if TYPE_CHECKING:
    from cowfs.view.directory import Directory
    from cowfs.view.file import FileData

__all__ = ["Layer", "Span"]


class Layer:
    """One frozen layer. ``files`` counts the inodes of the state it describes, ``sectors`` what they have allocated.

    ``merged``: files and directories of its delta that may lie on blocks of a root older than the one it stands on.

    ``table`` is the pointer of the settled inode table and ``root`` the root's id, both None until
    settled. ``parent`` is None for a layer that needs none any more. ``records``: how many its journal has of it,
    about, and clones made of extents: what it holds in memory.
    """

    __slots__ = (
        "delta", "files", "id", "merged", "next_ino", "parent", "parent_id", "records", "root", "sectors", "spans",
        "table", "workspace",
    )  # fmt: skip

    def __init__(
        self,
        layer_id: str,
        workspace: str,
        parent: Layer | None,
        delta: dict[int, Inode | None] | None,
        spans: tuple[Span, ...],
        next_ino: int,
        files: int,
        sectors: int = 0,
    ) -> None:
        self.id = layer_id
        self.workspace = workspace
        self.parent = parent
        self.parent_id = parent.id if parent is not None else None
        self.delta = delta
        self.spans = spans
        self.next_ino = next_ino
        self.files = files
        self.sectors = sectors
        self.merged: list[FileData | Directory] = []
        self.records = len(delta) if delta is not None else 0
        self.root: bytes | None = None
        self.table: bytes | None = None

    def settle(self, root: bytes, table: bytes) -> None:
        """From now on this layer is read from ``table``; what only its delta held is released."""
        self.table = table
        self.root = root
        self.delta = None
        self.parent = None
        self.merged = []

    @property
    def below(self) -> tuple[Layer | None, dict[int, Inode | None] | None]:
        """(parent, delta) as they were together; without a delta, ``table`` is what this layer is read from."""
        parent = self.parent
        return parent, self.delta

    @property
    def size_bytes(self) -> int:
        """Bytes of its journal records."""
        return sum(end - start for _, start, end in self.spans)
