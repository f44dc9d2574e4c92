"""Changing and building trees (the shape is described in cowfs.tree.radix).

Both work bottom-up on *items*: a ``Small`` is entries that fit one leaf and are not written yet, a ``Big`` is a
subtree that is written. Items under one digit each are joined by ``_close`` into one item: merged into a
``Small`` where they fit, else halved into leaves and branches. Only touched paths are read and written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from cowfs.blocks.api import BlockSink, BlockSource
from cowfs.errors import Corrupt
from cowfs.formats.node import (
    BRANCH,
    DIGIT_BITS,
    ENTRY_OVERHEAD,
    LEAF,
    LEAF_OVERHEAD,
    VALUE_MAX,
    Branch,
    Child,
    Leaf,
    Ref,
    decode_pointer,
    encode_branch,
    encode_leaf,
    encode_ref,
)
from cowfs.geometry import Geometry
from cowfs.tree.nodes import KEY_LIMIT, child_range, load_branch, load_leaf, shift_between

_MASK = (1 << DIGIT_BITS) - 1


class Small(NamedTuple):
    """Entries that are not written: one at most, or up to the leaf limit. ``size`` is their bytes."""

    keys: list[int]
    values: list[bytes]
    size: int


class Big(NamedTuple):
    """A written subtree. ``key`` is in the range that it lies in (exact enough to place it)."""

    key: int
    ref: Ref


Item: TypeAlias = Small | Big
Pieces: TypeAlias = list[tuple[int, Item]]
_NOTHING = Small([], [], 0)


def update(
    blocks: BlockSource,
    writer: BlockSink,
    pointer: bytes,
    changes: Mapping[int, bytes | None],
    geometry: Geometry,
    inline: bool,
) -> bytes:
    """The pointer to the tree with ``changes`` made (None deletes; an absent key is no error).

    ``inline``: whether a leaf of at most ``geometry.inline_limit`` encoded bytes lies in the pointer itself.
    Raises ValueError for a key that is no u64 or a value over VALUE_MAX bytes.
    """
    work = _Update(blocks, writer, geometry, changes)
    return work.finish(work.tree(decode_pointer(pointer)), inline)


def build(writer: BlockSink, entries: Iterable[tuple[int, bytes]], geometry: Geometry, inline: bool) -> bytes:
    """The pointer to a tree of these entries, which come in strictly ascending key order.

    Streams: memory does not grow with the number of entries. Equal to ``update`` of ``b""``.
    """
    work = _Shaper(None, writer, geometry)
    joiner = _Joiner(work)
    previous = -1
    for key, value in entries:
        if not previous < key < KEY_LIMIT or len(value) > VALUE_MAX:
            raise ValueError("tree keys must be u64 and ascend, values be short")
        previous = key
        joiner.feed(key, Small([key], [value], len(value) + ENTRY_OVERHEAD))
    return work.finish(joiner.close(), inline)


class _Shaper:
    """Joins items into the canonical shape and writes nodes."""

    def __init__(self, blocks: BlockSource | None, writer: BlockSink, geometry: Geometry) -> None:
        self.blocks = blocks
        self.writer = writer
        self.geometry = geometry
        self.limit = min(geometry.leaf_limit, VALUE_MAX)

    def finish(self, item: Item, inline: bool) -> bytes:
        """The pointer to a whole tree."""
        inline_max = self.geometry.inline_limit - LEAF_OVERHEAD if inline else -1
        if isinstance(item, Big):
            if item.ref.kind == BRANCH or item.ref.size > inline_max:
                return encode_ref(item.ref)
            item = self.entries(item)
        if not item.keys:
            return b""
        raw = encode_leaf(item.keys, item.values)
        if item.size <= inline_max:
            return raw
        return encode_ref(Ref(LEAF, len(item.keys), item.size, self.writer.put(raw)))

    def entries(self, item: Item) -> Small:
        """The entries of an item that fits a leaf."""
        if isinstance(item, Small):
            return item
        assert self.blocks is not None
        leaf = load_leaf(self.blocks, item.ref)
        return Small(list(leaf.keys), leaf.values(), leaf.size)

    def merge(self, pieces: Pieces) -> Small:
        """The entries of all pieces, which fit a leaf together."""
        keys: list[int] = []
        values: list[bytes] = []
        size = 0
        for _, item in pieces:
            more = self.entries(item)
            keys += more.keys
            values += more.values
            size += more.size
        if keys != sorted(keys):
            raise Corrupt("tree leaves: keys outside of what their parent describes")
        return Small(keys, values, size)

    def close(self, key: int, shift: int, pieces: Pieces) -> Item:
        """One item of the pieces under different digits at ``shift``; ``key`` is any key among them."""
        if len(pieces) < 2:
            return pieces[0][1] if pieces else _NOTHING
        if sum([_size(item) for _, item in pieces]) <= self.limit:
            return self.merge(pieces)
        plan: list[tuple[int, int, Pieces]] = []
        self.halve(pieces, 0, DIGIT_BITS, plan)
        children: list[Child] = []
        fresh: list[tuple[int, Small]] = []
        for digit, span, group in plan:
            item = group[0][1]
            if len(group) == 1 and isinstance(item, Big):
                children.append(Child(digit, span, item.ref))
                continue
            small = self.merge(group) if len(group) > 1 else self.entries(item)
            fresh.append((len(children), small))
            children.append(Child(digit, span, Ref(LEAF, len(small.keys), small.size, b"")))
        ids = self.writer.put_many([encode_leaf(small.keys, small.values) for _, small in fresh])
        for (index, _), id_ in zip(fresh, ids, strict=True):
            child = children[index]
            children[index] = child._replace(ref=child.ref._replace(id=id_))
        base = key >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS)
        id_ = self.writer.put(encode_branch(base, shift, children))
        count = sum([child.ref.entries for child in children])
        return Big(key, Ref(BRANCH, count, sum([child.ref.size for child in children]), id_))

    def halve(self, pieces: Pieces, digit: int, span: int, plan: list[tuple[int, int, Pieces]]) -> None:
        """Append (first digit, span, pieces) of every child that digits ``digit ..`` need, in order."""
        if len(pieces) == 1:
            own_digit, item = pieces[0]
            if isinstance(item, Big) and item.ref.kind == BRANCH:
                plan.append((own_digit, 0, pieces))
            else:
                plan.append((digit, span, pieces))
            return
        if sum([_size(item) for _, item in pieces]) <= self.limit:
            plan.append((digit, span, pieces))
            return
        middle = digit + (1 << (span - 1))
        cut = bisect_left(pieces, middle, key=itemgetter(0))
        if cut:
            self.halve(pieces[:cut], digit, span - 1, plan)
        if cut < len(pieces):
            self.halve(pieces[cut:], middle, span - 1, plan)


class _Joiner:
    """Joins items that come in key order: a stack of open branches, the deepest last."""

    def __init__(self, shaper: _Shaper) -> None:
        self._shaper = shaper
        self._stack: list[tuple[int, Pieces]] = []
        self._key = 0
        self._item: Item = _NOTHING

    def feed(self, key: int, item: Item) -> None:
        """``key`` is the first key of a ``Small`` whose keys lie in no other item's digit, or a ``Big``'s."""
        previous = self._item
        if previous is not _NOTHING:
            shift = shift_between(self._key, key)
            stack = self._stack
            while stack and stack[-1][0] < shift:
                previous = self._pop(previous)
            if not stack or stack[-1][0] != shift:
                stack.append((shift, []))
            stack[-1][1].append(((self._key >> shift) & _MASK, previous))
        self._key = key
        self._item = item

    def close(self) -> Item:
        """Everything that was fed, as one item."""
        item = self._item
        while self._stack:
            item = self._pop(item)
        self._item = item
        return item

    def _pop(self, item: Item) -> Item:
        shift, pieces = self._stack.pop()
        pieces.append(((self._key >> shift) & _MASK, item))
        return self._shaper.close(self._key, shift, pieces)


class _Update(_Shaper):
    """One call of ``update``: the changes in key order, and the recursion over the old tree."""

    def __init__(
        self, blocks: BlockSource, writer: BlockSink, geometry: Geometry, changes: Mapping[int, bytes | None]
    ) -> None:
        super().__init__(blocks, writer, geometry)
        self.source = blocks
        self.keys = sorted(changes)
        self.values = [changes[key] for key in self.keys]
        if self.keys and (self.keys[0] < 0 or self.keys[-1] >= KEY_LIMIT):
            raise ValueError("tree keys must be u64")
        if any(len(value) > VALUE_MAX for value in self.values if value is not None):
            raise ValueError(f"tree values have at most {VALUE_MAX} bytes")

    def tree(self, top: Leaf | Ref | None) -> Item:
        """The whole tree with all changes."""
        if top is None:
            return self.pack(*self.inserted(0, len(self.keys)))
        if isinstance(top, Ref):
            return self.subtree(Big(0, top), 0, KEY_LIMIT, 0, len(self.keys))
        merged = self.leaf(top, 0, len(self.keys))
        return Small(list(top.keys), top.values(), top.size) if merged is None else self.pack(*merged)

    def subtree(self, item: Big, low: int, high: int, first: int, last: int) -> Item:
        """An old subtree whose parent has it under keys ``low`` to ``high - 1``, with changes first..last-1."""
        if first == last:
            return item
        if item.ref.kind == LEAF:
            merged = self.leaf(load_leaf(self.source, item.ref), first, last)
            return item if merged is None else self.pack(*merged)
        node = load_branch(self.source, item.ref, low, high)
        inner_first = bisect_left(self.keys, node.base, first, last)
        inner_last = bisect_left(self.keys, node.end, inner_first, last)
        inner = self.branch(node, Big(node.base, item.ref), inner_first, inner_last)
        before, after = self.inserted(first, inner_first), self.inserted(inner_last, last)
        if not before[0] and not after[0]:
            return inner
        joiner = _Joiner(self)
        self.feed(joiner, *before)
        if isinstance(inner, Small):
            self.feed(joiner, inner.keys, inner.values)
        else:
            joiner.feed(inner.key, inner)
        self.feed(joiner, *after)
        return joiner.close()

    def branch(self, node: Branch, item: Big, first: int, last: int) -> Item:
        """A branch with changes first..last-1, all in its key range."""
        keys, shift = self.keys, node.shift
        pieces: Pieces = []
        untouched = dict.fromkeys(node.children)
        changed = False
        while first < last:
            digit = (keys[first] >> shift) & _MASK
            child = node.table[digit]
            low, high = child_range(node, child.digit if child else digit, child.span if child else 0)
            until = bisect_left(keys, high, first, last)
            if child is None:
                new = self.pack(*self.inserted(first, until))
                changed = changed or new is not _NOTHING
                pieces.append((digit, new))
            else:
                new_pieces = self.child(child, low, high, shift, first, until)
                if new_pieces is not None:
                    changed = True
                    del untouched[child]
                    pieces += new_pieces
            first = until
        if not changed:
            return item
        pieces = [piece for piece in pieces if piece[1] is not _NOTHING]
        for child in untouched:
            pieces.append((child.digit, Big(node.base + (child.digit << shift), child.ref)))
        pieces.sort(key=itemgetter(0))
        return self.close(node.base, shift, pieces)

    def child(self, child: Child, low: int, high: int, shift: int, first: int, last: int) -> Pieces | None:
        """What a child of a branch becomes, by digit at ``shift``; None if nothing in it changes."""
        if child.ref.kind == BRANCH:
            old = Big(low, child.ref)
            new = self.subtree(old, low, high, first, last)
            return None if new is old else [(child.digit, new)]
        leaf = load_leaf(self.source, child.ref)
        if leaf.keys[0] < low or leaf.keys[-1] >= high:
            raise Corrupt(f"block {child.ref.id.hex()}: keys outside of what its parent describes")
        merged = self.leaf(leaf, first, last)
        if merged is None:
            return None
        if child.span == 0 or self.fits(*merged):
            return [(child.digit, self.pack(*merged))]
        return self.split(shift, *merged)

    def split(self, shift: int, keys: list[int], values: list[bytes]) -> Pieces:
        """Entries by their digit at ``shift``."""
        pieces: Pieces = []
        first = 0
        while first < len(keys):
            digit = (keys[first] >> shift) & _MASK
            last = bisect_left(keys, ((keys[first] >> shift) + 1) << shift, first)
            pieces.append((digit, self.pack(keys[first:last], values[first:last])))
            first = last
        return pieces

    def leaf(self, leaf: Leaf, first: int, last: int) -> tuple[list[int], list[bytes]] | None:
        """A leaf's entries with changes first..last-1, or None if they change nothing."""
        entries = dict(zip(leaf.keys, leaf.values(), strict=True))
        changed = grown = False
        for index in range(first, last):
            key, value = self.keys[index], self.values[index]
            old = entries.get(key)
            if old == value:
                continue
            changed = True
            if value is None:
                del entries[key]
            else:
                grown = grown or old is None
                entries[key] = value
        if not changed:
            return None
        if grown:
            keys = sorted(entries)
            return keys, [entries[key] for key in keys]
        return list(entries), list(entries.values())

    def inserted(self, first: int, last: int) -> tuple[list[int], list[bytes]]:
        """The entries that changes first..last-1 put where nothing was."""
        keys: list[int] = []
        values: list[bytes] = []
        for key, value in zip(self.keys[first:last], self.values[first:last], strict=True):
            if value is not None:
                keys.append(key)
                values.append(value)
        return keys, values

    def fits(self, keys: list[int], values: list[bytes]) -> bool:
        """Whether the entries are at most one leaf."""
        return len(keys) < 2 or _bytes(values) <= self.limit

    def pack(self, keys: list[int], values: list[bytes]) -> Item:
        """Any entries in key order as one item."""
        if not keys:
            return _NOTHING
        if self.fits(keys, values):
            return Small(keys, values, _bytes(values))
        joiner = _Joiner(self)
        self.feed(joiner, keys, values)
        return joiner.close()

    def feed(self, joiner: _Joiner, keys: list[int], values: list[bytes]) -> None:
        """Every entry by itself."""
        for key, value in zip(keys, values, strict=True):
            joiner.feed(key, Small([key], [value], len(value) + ENTRY_OVERHEAD))


def _size(item: Item) -> int:
    return item.size if isinstance(item, Small) else item.ref.size


def _bytes(values: list[bytes]) -> int:
    return sum(map(len, values)) + ENTRY_OVERHEAD * len(values)
