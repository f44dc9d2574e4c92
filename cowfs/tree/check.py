"""Checking trees, and walking their blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cowfs.blocks.api import BlockSource
from cowfs.errors import CowfsError
from cowfs.formats.node import BRANCH, DIGIT_BITS, LEAF_OVERHEAD, VALUE_MAX, Branch, Leaf, Ref, decode_pointer
from cowfs.geometry import Geometry
from cowfs.tree.nodes import KEY_LIMIT, child_range, load_branch, load_leaf


def walk(
    blocks: BlockSource, pointer: bytes, visit: Callable[[bytes], bool]
) -> Iterator[tuple[bytes | None, list[tuple[int, bytes]]]]:
    """(block id, entries) of every node that is reached, parents first; a branch has no entries of its own.

    ``visit(id)`` says whether to go into a block; what it refuses is left out with all below it. An inline
    leaf has the id None and is always visited.
    """
    top = decode_pointer(pointer)
    if isinstance(top, Leaf):
        yield None, list(zip(top.keys, top.values(), strict=True))
    pending = [(0, KEY_LIMIT, top)] if isinstance(top, Ref) else []
    while pending:
        low, high, ref = pending.pop()
        if not visit(ref.id):
            continue
        if ref.kind != BRANCH:
            leaf = load_leaf(blocks, ref)
            yield ref.id, list(zip(leaf.keys, leaf.values(), strict=True))
            continue
        node = load_branch(blocks, ref, low, high)
        yield ref.id, []
        for child in reversed(node.children):
            pending.append((*child_range(node, child.digit, child.span), child.ref))


def check(blocks: BlockSource, pointer: bytes, geometry: Geometry, inline: bool) -> Iterator[str]:
    """Everything that is wrong with a tree: unreadable nodes, and every departure from the canonical shape."""
    limit = min(geometry.leaf_limit, VALUE_MAX)
    try:
        top = decode_pointer(pointer)
    except CowfsError as error:
        yield error.message
        return
    if top is None:
        return
    inline_max = geometry.inline_limit - LEAF_OVERHEAD if inline else -1
    if isinstance(top, Leaf):
        if top.size > inline_max:
            yield f"tree pointer: an inline leaf of {top.size + LEAF_OVERHEAD} bytes"
        if len(top.keys) > 1 and top.size > limit:
            yield "tree pointer: an inline leaf over the leaf limit"
        return
    if top.kind != BRANCH and top.size <= inline_max:
        yield f"tree pointer: block {top.id.hex()} could be inline"
    pending = [(0, KEY_LIMIT, top)]
    while pending:
        low, high, ref = pending.pop()
        try:
            if ref.kind == BRANCH:
                node = load_branch(blocks, ref, low, high)
            else:
                yield from _check_leaf(load_leaf(blocks, ref), ref, low, high, limit)
                continue
        except CowfsError as error:
            yield error.message
            continue
        yield from (f"block {ref.id.hex()}: {problem}" for problem in _check_branch(node, limit))
        for child in reversed(node.children):
            pending.append((*child_range(node, child.digit, child.span), child.ref))


def _check_leaf(leaf: Leaf, ref: Ref, low: int, high: int, limit: int) -> Iterator[str]:
    if leaf.keys[0] < low or leaf.keys[-1] >= high:
        yield f"block {ref.id.hex()}: leaf has keys outside of what its parent describes"
    if len(leaf.keys) > 1 and leaf.size > limit:
        yield f"block {ref.id.hex()}: leaf over the leaf limit"
    sizes = [len(value) for value in leaf.values()]
    if max(sizes) > VALUE_MAX:
        yield f"block {ref.id.hex()}: leaf has a value over {VALUE_MAX} bytes"


def _check_branch(node: Branch, limit: int) -> Iterator[str]:
    """A branch is canonical if it is over the limit, splits at its top digit, and halves only where it must."""
    if node.size <= limit:
        yield "branch that would fit a leaf"
    # The keys differ in the top digit if no child spans all of them; the decoder grants two children at least.
    for child in node.children:
        if child.ref.kind == BRANCH:
            if child.ref.size <= limit:
                yield f"child at digit {child.digit} is a branch that would fit a leaf"
            continue
        if child.ref.entries > 1 and child.ref.size > limit:
            yield f"child at digit {child.digit} is a leaf over the limit"
        # The next larger half that the child lies in must be too big for a leaf.
        span = child.span + 1
        first = child.digit >> span << span
        group = [other.ref for other in node.children if first <= other.digit < first + (1 << span)]
        if span < DIGIT_BITS and (sum(ref.entries for ref in group) == 1 or sum(ref.size for ref in group) <= limit):
            yield f"child at digit {child.digit} is a half of what would fit a leaf"
