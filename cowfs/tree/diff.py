"""What differs between two trees, reading only subtrees that differ."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from cowfs.blocks.api import BlockSource
from cowfs.formats.node import BRANCH, Branch, Leaf, Ref, decode_pointer
from cowfs.tree.nodes import KEY_LIMIT, child_range, load_branch, load_leaf

Difference: TypeAlias = tuple[int, bytes | None, bytes | None]


class _Part(NamedTuple):
    """Keys ``low`` to ``high - 1`` of one tree: a subtree, or (from ``at`` on) a loaded leaf."""

    low: int
    high: int
    what: Ref | Leaf
    at: int = 0
    node: Branch | None = None


def diff(blocks: BlockSource, a: bytes, b: bytes) -> Iterator[Difference]:
    """(key, value in a, value in b) wherever they differ, in key order; None means absent."""
    left, right = _start(a), _start(b)
    while left and right:
        x, y = left[-1], right[-1]
        if x.high <= y.low:
            for key, value in _entries(blocks, left.pop()):
                yield key, value, None
        elif y.high <= x.low:
            for key, value in _entries(blocks, right.pop()):
                yield key, None, value
        elif isinstance(x.what, Ref) and isinstance(y.what, Ref) and x.what.id == y.what.id:
            left.pop()
            right.pop()
        elif not _narrow(blocks, left) and not _narrow(blocks, right):
            yield from _step(blocks, left, right)
    for part in reversed(left):
        for key, value in _entries(blocks, part):
            yield key, value, None
    for part in reversed(right):
        for key, value in _entries(blocks, part):
            yield key, None, value


def _start(pointer: bytes) -> list[_Part]:
    top = decode_pointer(pointer)
    return [] if top is None else [_Part(0, KEY_LIMIT, top)]


def _narrow(blocks: BlockSource, stack: list[_Part]) -> bool:
    """Load the branch on top of a stack, to know its true range. False if there is nothing to load."""
    low, high, what, at, node = stack[-1]
    if not isinstance(what, Ref) or what.kind != BRANCH or node is not None:
        return False
    node = load_branch(blocks, what, low, high)
    stack[-1] = _Part(node.base, node.end, what, at, node)
    return True


def _step(blocks: BlockSource, left: list[_Part], right: list[_Part]) -> Iterator[Difference]:
    """Go down one level in the wider of two overlapping branches, or compare two leaves where both have keys."""
    x, y = left[-1], right[-1]
    if x.node is None and y.node is None:
        yield from _compare(blocks, left, right)
        return
    x_width = x.high - x.low if x.node else 0
    y_width = y.high - y.low if y.node else 0
    if x_width >= y_width:
        _open(left)
    if y_width >= x_width:
        _open(right)


def _open(stack: list[_Part]) -> None:
    node = stack.pop().node
    assert node is not None
    for child in reversed(node.children):
        low, high = child_range(node, child.digit, child.span)
        stack.append(_Part(low, high, child.ref))


def _compare(blocks: BlockSource, left: list[_Part], right: list[_Part]) -> Iterator[Difference]:
    """Two overlapping leaves: compare the keys below the end of both, keep the rest of the longer."""
    x, y = left.pop(), right.pop()
    until = min(x.high, y.high)
    old, x_rest = _below(blocks, x, until)
    new, y_rest = _below(blocks, y, until)
    if x_rest:
        left.append(x_rest)
    if y_rest:
        right.append(y_rest)
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before != after:
            yield key, before, after


def _below(blocks: BlockSource, part: _Part, until: int) -> tuple[dict[int, bytes], _Part | None]:
    leaf = load_leaf(blocks, part.what) if isinstance(part.what, Ref) else part.what
    stop = bisect_left(leaf.keys, until, part.at)
    entries = {leaf.keys[index]: leaf.value(index) for index in range(part.at, stop)}
    return entries, _Part(until, part.high, leaf, stop) if stop < len(leaf.keys) else None


def _entries(blocks: BlockSource, part: _Part) -> Iterator[tuple[int, bytes]]:
    stack = [part]
    while stack:
        low, high, what, at, node = stack.pop()
        if isinstance(what, Ref):
            if what.kind == BRANCH:
                stack.append(_Part(low, high, what, 0, node or load_branch(blocks, what, low, high)))
                _open(stack)
                continue
            what = load_leaf(blocks, what)
        for index in range(at, len(what.keys)):
            yield what.keys[index], what.value(index)
