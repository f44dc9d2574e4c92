"""Reading tree nodes through the cache of decoded ones."""

from __future__ import annotations

from cowfs.blocks.api import BlockSource
from cowfs.errors import Corrupt
from cowfs.formats.node import BRANCH, DIGIT_BITS, LEAF, Branch, Leaf, Ref, decode_node

KEY_LIMIT = 1 << 64
"""One past the highest key."""

_NODE_COST = 400  # bytes of objects around a decoded leaf
_CHILD_COST = 300  # of one child of a decoded branch


def load(blocks: BlockSource, id_: bytes) -> Leaf | Branch:
    """The node in a block. Raises Corrupt."""
    node = blocks.nodes.get(id_)
    if node is None:
        raw = blocks.get(id_)
        try:
            node = decode_node(raw)
        except Corrupt as error:
            raise Corrupt(f"block {id_.hex()}: {error.message}") from None
        if isinstance(node, Leaf):
            node.id = id_
            cost = _NODE_COST + 2 * len(raw)
        else:
            cost = _NODE_COST + _CHILD_COST * len(node.children)
        blocks.nodes.put(id_, node, cost)
    return node


def load_leaf(blocks: BlockSource, ref: Ref) -> Leaf:
    """The leaf that ``ref`` speaks of. Raises Corrupt when it is none, or of other counts."""
    node = load(blocks, ref.id)
    if not isinstance(node, Leaf) or ref.kind != LEAF or len(node.keys) != ref.entries or node.size != ref.size:
        raise Corrupt(f"block {ref.id.hex()}: not the leaf that its parent describes")
    return node


def load_branch(blocks: BlockSource, ref: Ref, low: int = 0, high: int = KEY_LIMIT) -> Branch:
    """The branch that ``ref`` speaks of, inside keys ``low`` to ``high - 1``, all of which it may not fill.

    The range shrinks at every step down, so that no descent is endless. Raises Corrupt.
    """
    node = load(blocks, ref.id)
    if not isinstance(node, Branch) or ref.kind != BRANCH:
        raise Corrupt(f"block {ref.id.hex()}: not the branch that its parent describes")
    if (
        node.base < low
        or (node.end > high and high != KEY_LIMIT)
        or node.entries != ref.entries
        or node.size != ref.size
    ):
        raise Corrupt(f"block {ref.id.hex()}: not the branch that its parent describes")
    return node


def child_range(node: Branch, digit: int, span: int) -> tuple[int, int]:
    """(first key, one past the last) under some digits of a branch."""
    low = node.base + (digit << node.shift)
    return low, low + (1 << (node.shift + span))


def shift_between(a: int, b: int) -> int:
    """The shift of the highest digit in which two different keys differ."""
    return ((a ^ b).bit_length() - 1) // DIGIT_BITS * DIGIT_BITS
