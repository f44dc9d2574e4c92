"""Blocks as a check reads them: what is damaged is remembered, with everything that needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cowfs.blocks.api import BlockSource
from cowfs.blocks.cache import LruCache
from cowfs.errors import Corrupt, CowfsError
from cowfs.formats.checksum import block_id
from cowfs.formats.node import BRANCH, Branch, Leaf, Ref, decode_pointer
from cowfs.fsck.problem import Affected, Problem
from cowfs.geometry import Geometry
from cowfs.tree import radix
from cowfs.tree.nodes import KEY_LIMIT, child_range, load_branch, load_leaf

_NODES_BYTES = 32 << 20

Lost = tuple[int, int, frozenset[bytes]]
"""Keys from the first to below the second that a tree may have and that cannot be read, and the blocks to blame."""


class DamagedBlock(Corrupt):
    """A block cannot be read. ``Watched`` has remembered it."""


class Watched:
    """A source of blocks. ``present(id)``: whether a block that is not to be read is there at all.

    ``rehash``: compare the id of every block that is read, too. ``hits``: damaged blocks met since it was cleared.
    """

    def __init__(
        self, blocks: BlockSource, present: Callable[[bytes], bool] | None = None, rehash: bool = False
    ) -> None:
        self.nodes: LruCache[Leaf | Branch] = LruCache(_NODES_BYTES)
        self.hits: set[bytes] = set()
        self._blocks = blocks
        self._present = present
        self._rehash = rehash
        self._damaged: dict[bytes, tuple[str, Affected]] = {}

    def get(self, id_: bytes) -> bytes:
        """The raw bytes. Raises DamagedBlock."""
        if id_ not in self._damaged:
            try:
                raw = self._blocks.get(id_)
            except (CowfsError, OSError) as error:
                self._damage(id_, str(error))
            else:
                if not self._rehash or block_id(raw) == id_:
                    return raw
                self._damage(id_, "its bytes are not those of its id")
        self.hits.add(id_)
        raise DamagedBlock(self._damaged[id_][0])

    def probe(self, id_: bytes) -> None:
        """Note it when a block is missing, without reading it."""
        if id_ not in self._damaged and self._present is not None and not self._present(id_):
            self._damage(id_, f"no block {id_.hex()}")
        if id_ in self._damaged:
            self.hits.add(id_)

    def check_tree(self, pointer: bytes, geometry: Geometry, *, inline: bool) -> Iterator[str]:
        """Everything that is wrong with the shape of a tree, but for damaged blocks."""
        for problem in radix.check(self, pointer, geometry, inline):
            if not any(problem == message for message, _ in self._damaged.values()):
                yield problem

    def _damage(self, id_: bytes, message: str) -> None:
        self._damaged[id_] = (message, Affected())

    def blame(self, id_: bytes, place: str) -> None:
        """A damaged block is needed by ``place``."""
        self._damaged[id_][1].add(place)

    def problems(self) -> Iterator[Problem]:
        """A problem for each damaged block."""
        for id_, (message, affected) in self._damaged.items():
            name = f"block {id_.hex()}"
            what = (
                "it is lost" if message == f"no {name}" else message.removeprefix(f"{name} ").removeprefix(f"{name}: ")
            )
            yield affected.problem(name, what, "block")


def scan_around(blocks: Watched, pointer: bytes, lost: list[Lost]) -> Iterator[tuple[int, bytes]]:
    """Entries of a tree in key order, leaving out what cannot be read, which goes to ``lost``. Raises Corrupt.

    A node that can be read and makes no sense is left out as well, with no block to blame.
    """
    top = decode_pointer(pointer)
    if isinstance(top, Leaf):
        yield from zip(top.keys, top.values(), strict=True)
    pending = [(0, KEY_LIMIT, top)] if isinstance(top, Ref) else []
    while pending:
        low, high, ref = pending.pop()
        try:
            if ref.kind != BRANCH:
                leaf = load_leaf(blocks, ref)
                yield from zip(leaf.keys, leaf.values(), strict=True)
                continue
            node = load_branch(blocks, ref, low, high)
        except DamagedBlock:
            lost.append((low, high, frozenset((ref.id,))))
        except Corrupt:
            lost.append((low, high, frozenset()))
        else:
            for child in reversed(node.children):
                pending.append((*child_range(node, child.digit, child.span), child.ref))
