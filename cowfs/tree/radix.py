"""The canonical copy-on-write radix tree: a map from u64 keys to byte values, a pure function of its entries.

A *pointer* is how a parent refers to a tree: ``b""`` is the empty one; a small leaf is inline; else block id,
entry count and entry bytes (docs/format.md). Pointers are plain bytes.

Shape. A subtree is one leaf if its entries take at most ``geometry.leaf_limit`` bytes, or if it is one entry.
Else it is a branch at the highest 6-bit digit in which its keys differ. Inside a branch the digits are halved
(0-63, 0-31, 32-63, ...) until a half is a leaf by the same rule; a single digit that is too big for a leaf is
a branch below. So leaves are well filled whatever the size of entries, at most 64 children are rewritten per
level, and the shape depends on nothing but the entries. ``check`` yields every violation.

``blocks`` is anything with ``get`` and a cache of decoded nodes, ``writer`` anything with ``put`` and
``put_many`` (cowfs.blocks.api). All raise Corrupt on damaged nodes and missing blocks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from cowfs.blocks.api import BlockSource
from cowfs.errors import Corrupt
from cowfs.formats.node import (
    BRANCH,
    DIGIT_BITS,
    LEAF,
    VALUE_MAX,
    Branch,
    Leaf,
    Ref,
    decode_leaf,
    decode_pointer,
    ref_id,
)
from cowfs.tree.check import check, walk
from cowfs.tree.diff import diff
from cowfs.tree.nodes import KEY_LIMIT, child_range, load, load_branch, load_leaf
from cowfs.tree.update import build, update

__all__ = ["VALUE_MAX", "Finger", "build", "check", "count", "diff", "group", "lookup", "scan", "update", "walk"]

_MASK = (1 << DIGIT_BITS) - 1


def lookup(blocks: BlockSource, pointer: bytes, key: int) -> bytes | None:
    """The value of ``key``, or None."""
    leaf = _leaf(blocks, pointer, key, 0)
    if leaf is None:
        return None
    index = _index(leaf, key)
    return None if index < 0 else leaf.value(index)


class Finger:
    """Finds keys that lie near each other: it begins at the leaf that had the one before. For one thread at a time."""

    __slots__ = ("_blocks", "_leaf", "_pointer")

    def __init__(self, blocks: BlockSource) -> None:
        self._blocks = blocks
        self._pointer = b""
        self._leaf: Leaf | None = None

    def find(self, pointer: bytes, key: int) -> tuple[Leaf, int] | None:
        """(leaf, index) of ``key`` in the tree of ``pointer``, or None."""
        leaf = self._leaf
        if leaf is None or self._pointer is not pointer or not leaf.keys[0] <= key <= leaf.keys[-1]:
            leaf = _leaf(self._blocks, pointer, key, 0)
            if leaf is None:
                return None
            self._leaf, self._pointer = leaf, pointer
        index = _index(leaf, key)
        return None if index < 0 else (leaf, index)

    def let_go(self) -> None:
        """Hold no leaf."""
        self._pointer, self._leaf = b"", None


def _index(leaf: Leaf, key: int) -> int:
    """Where a key lies in a leaf; -1: nowhere."""
    keys = leaf.keys
    index = bisect_left(keys, key)
    return index if index < len(keys) and keys[index] == key else -1


def group(blocks: BlockSource, pointer: bytes, first: int, bits: int) -> list[tuple[int, bytes]]:
    """Entries with keys from ``first``, a multiple of ``2**bits``, to ``first + 2**bits - 1``, in key order."""
    stop = first + (1 << bits)
    try:
        leaf = _leaf(blocks, pointer, first, bits)
    except _Divided:
        return list(scan(blocks, pointer, first, stop))
    if leaf is None:
        return []
    keys = leaf.keys
    index, end = bisect_left(keys, first), len(keys)
    found = []
    while index < end and keys[index] < stop:
        found.append((keys[index], leaf.value(index)))
        index += 1
    return found


class _Divided(Exception):
    """A branch splits the keys that were asked for together."""


def _leaf(blocks: BlockSource, pointer: bytes, key: int, bits: int) -> Leaf | None:
    """The leaf that covers ``key``, and all keys that differ in the last ``bits`` only; None where nothing lies."""
    if not pointer:
        return None
    if pointer[0] == LEAF:
        return decode_leaf(pointer)
    id_ = ref_id(pointer)
    cached = blocks.nodes.get
    above = KEY_LIMIT
    while True:
        node = cached(id_) or load(blocks, id_)
        if node.__class__ is Leaf:
            return node
        assert isinstance(node, Branch)
        shift = node.shift
        if shift >= above:
            raise Corrupt(f"block {id_.hex()}: a branch that is not below its parent")
        if shift < bits:
            raise _Divided
        above = shift
        if (key ^ node.base) >> (shift + DIGIT_BITS):
            return None
        child = node.table[(key >> shift) & _MASK]
        if child is None:
            return None
        id_ = child[2][3]  # .ref.id, by position: this is the hottest loop of all


def count(pointer: bytes) -> int:
    """How many entries a tree has; reads nothing."""
    top = decode_pointer(pointer)
    return 0 if top is None else top.entries if isinstance(top, Ref) else len(top.keys)


def scan(blocks: BlockSource, pointer: bytes, start: int = 0, stop: int = KEY_LIMIT) -> Iterator[tuple[int, bytes]]:
    """Entries with ``start <= key < stop``, in key order."""
    top = decode_pointer(pointer)
    if top is None:
        return
    if isinstance(top, Leaf):
        yield from _scan_leaf(top, start, stop)
        return
    pending = [(0, KEY_LIMIT, top)]
    while pending:
        low, high, ref = pending.pop()
        if ref.kind != BRANCH:
            yield from _scan_leaf(load_leaf(blocks, ref), start, stop)
            continue
        node = load_branch(blocks, ref, low, high)
        for child in reversed(node.children):
            low, high = child_range(node, child.digit, child.span)
            if low < stop and high > start:
                pending.append((low, high, child.ref))


def _scan_leaf(leaf: Leaf, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    keys = leaf.keys
    first = bisect_left(keys, start) if keys[0] < start else 0
    last = bisect_left(keys, stop) if keys[-1] >= stop else len(keys)
    if first == 0 and last == len(keys):
        yield from zip(keys, leaf.values(), strict=True)
        return
    for index in range(first, last):
        yield keys[index], leaf.value(index)
