"""Turn a delta into blocks and a root: (parent root, layer) -> (root, inode -> content).

The layer is rebuilt by replaying its journal spans over the parent root, with the same code that recovers
a workspace; then every inode of the delta is stored in its canonical form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cowfs.blocks.api import BlockSource, BlockStore
from cowfs.formats import inode as fmt
from cowfs.formats.inode import Content, InodeRecord, encode_inode
from cowfs.geometry import PAGE, SECTOR, Geometry
from cowfs.layers.journal import JournalFile
from cowfs.layers.layer import Layer
from cowfs.layers.replay import replay_span
from cowfs.tree import content, radix, root
from cowfs.view.directory import OverlayDirectory, StoredDirectory
from cowfs.view.file import FileData, OverlayFile, StoredFile
from cowfs.view.inode import Inode
from cowfs.view.state import State, record_of


@dataclass(frozen=True, slots=True)
class SettledLayer:
    """``contents``: what each changed regular file and directory holds at rest now.

    ``logical_bytes``: by how much the bytes that its inodes have allocated grew (or shrank); ``inodes``: in the root.
    """

    root: bytes
    contents: list[tuple[int, Content]]
    logical_bytes: int
    inodes: int


def settle_layer(
    at_rest: BlockSource,
    blocks: BlockStore,
    geometry: Geometry,
    parent_root: bytes,
    spans: Iterable[tuple[str, int, int]],
) -> SettledLayer:
    """Replay ``spans`` (journal path, first byte, end byte) over ``parent_root`` and store the result.

    ``at_rest`` has what the parent is made of, ``blocks`` takes what is new. What is made of inodes at rest stays with
    their leaves, and refers to the first: it may outlive the second.

    Raises Corrupt when a record or block is damaged.
    """
    parent = base_layer(at_rest, parent_root)
    state, base = State(at_rest, geometry, parent), State(at_rest, geometry, parent)
    for path, start, end in spans:
        at = Path(path)
        file = JournalFile.open(at.parent.parent, at.parent.name, int(at.stem))
        replay_span(state, file, start, end)
    table = parent.table or b""
    contents: list[tuple[int, Content]] = []
    changes: dict[int, bytes | None] = {}
    store = DeltaStore(blocks, geometry, contents)
    logical = 0
    for ino, inode in state.live.items():
        changes[ino] = None if inode is None else encode_inode(store.record(inode))
        logical += _allocated(inode) - _allocated(base.find(ino))
    new_table = radix.update(blocks, blocks, table, changes, geometry, inline=False)
    return SettledLayer(root.write_root(blocks, new_table), contents, logical, radix.count(new_table))


def _allocated(inode: Inode | None) -> int:
    return inode.blocks * SECTOR if inode is not None else 0


def base_layer(blocks: BlockSource, root_id: bytes) -> Layer:
    """A settled layer that stands for a root alone; it gives out no inode numbers."""
    layer = Layer("", "", None, None, (), 1 << 63, 0)
    layer.settle(root_id, root.read_root(blocks, root_id))
    return layer


class DeltaStore:
    """Stores the inodes of one delta; collects in ``contents`` what files and directories became."""

    def __init__(self, blocks: BlockStore, geometry: Geometry, contents: list[tuple[int, Content]]) -> None:
        self.blocks = blocks
        self.geometry = geometry
        self.contents = contents

    def record(self, inode: Inode) -> InodeRecord:
        """The inode at rest, its content stored."""
        return content.finish_record(self.blocks, record_of(inode, self._content(inode)))

    def _content(self, inode: Inode) -> Content:
        data = inode.data
        if isinstance(data, bytes):
            return content.store_symlink(self.blocks, self.geometry, data)
        if isinstance(data, StoredFile):
            return data.content
        if isinstance(data, StoredDirectory):
            return content.directory_content(data.pointer)
        if isinstance(data, OverlayFile):
            stored = self._file(inode, data)
        elif isinstance(data, OverlayDirectory):
            stored = self._directory(data)
        else:
            return fmt.EMPTY
        self.contents.append((inode.ino, stored))
        return stored

    def _directory(self, data: OverlayDirectory) -> Content:
        base = data.base
        pointer = base.pointer if isinstance(base, StoredDirectory) else b""
        changes = {
            cookie: None if entry is None else fmt.encode_dirent(entry.ino, entry.kind, entry.name)
            for cookie, entry in data.changes().items()
        }
        return content.directory_content(
            radix.update(self.blocks, self.blocks, pointer, changes, self.geometry, inline=True)
        )

    def _file(self, inode: Inode, data: OverlayFile) -> Content:
        base = data.base
        old, old_size = (base.content, base.size) if isinstance(base, StoredFile) else (fmt.EMPTY, 0)
        size, block_size = inode.size, 1 << inode.block_log2
        stored, pending = old, {}
        kept: int | None = min(data.limit, size)
        pending_bytes = 0
        for number in _dirty_blocks(data, size, block_size):
            start = number * block_size
            length = min(block_size, size - start)
            mask = _mask(data, start // PAGE, -(-(start + length) // PAGE))
            pending[number] = (mask, data.read(start, length) if mask else b"")
            pending_bytes += length
            if pending_bytes >= content.BATCH_BYTES:
                stored = content.update_file(
                    self.blocks, self.blocks, self.geometry, stored, old_size, size, pending, kept, inode.block_log2
                )
                old_size, kept, pending, pending_bytes = size, None, {}, 0
        return content.update_file(
            self.blocks, self.blocks, self.geometry, stored, old_size, size, pending, kept, inode.block_log2
        )


def _dirty_blocks(data: OverlayFile, size: int, block_size: int) -> Iterable[int]:
    """Numbers of the blocks that an extent touches, ascending, each once."""
    next_block = 0
    for start, end in data.dirty_ranges():
        first = max(start // block_size, next_block)
        next_block = max(next_block, -(-min(end, size) // block_size))
        yield from range(first, next_block)


def _mask(data: FileData, first: int, end: int) -> int:
    """Which pages of [first, end) are allocated; bit 0 is page ``first``."""
    mask = 0
    for a, b in data.runs(first, end):
        mask |= (1 << b - first) - (1 << a - first)
    return mask
