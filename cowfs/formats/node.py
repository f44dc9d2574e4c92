"""Tree nodes, tree pointers and root blocks: ``bytes <-> frozen values``, no I/O (docs/format.md).

Invariants of the encoding (the canonical form on top of them is cowfs.tree's):
- equal nodes encode to equal bytes;
- a leaf's keys ascend strictly; a branch has at least two children, with disjoint, ascending,
  naturally aligned digit ranges;
- decoding raises :class:`Corrupt` on any malformed byte string, never anything else.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import le, lt
from typing import Any, NamedTuple

from cowfs.errors import Corrupt
from cowfs.formats.checksum import ID_BYTES

LEAF, BRANCH = 1, 2
"""Node kinds: the first byte of a node block. An inline pointer is a leaf node itself."""

_LEAF_REF, _BRANCH_REF = 3, 4  # the first byte of a pointer to a block

DIGIT_BITS = 6
"""Key bits that one branch consumes: it has up to 64 children."""

TOP_SHIFT = 60
"""Shift of the highest digit of a u64 key (it has 4 bits, the others 6)."""

ENTRY_OVERHEAD = 10
"""Bytes of a leaf entry besides its value: u64 key, u16 end offset."""

VALUE_MAX = 32768
"""Bytes in a value at most. Leaf limits up to this keep every end offset below 2^16."""

_LEAF_HEAD = struct.Struct("<BBH")  # kind, zero, count
_BRANCH_HEAD = struct.Struct("<BBHQ")  # kind, shift, count, base
_CHILD = struct.Struct("<BBQQ32s")  # first digit, kind << 4 | span, entries, bytes, id
_REF = struct.Struct("<BQQ32s")  # tag, entries, bytes, id
_ROOT = struct.Struct("<8sH")  # magic, pointer length
_ROOT_MAGIC = b"cowfsrt0"
_SWAP = sys.byteorder == "big"

LEAF_OVERHEAD = _LEAF_HEAD.size
"""Bytes of an encoded leaf besides its entries."""


class Ref(NamedTuple):
    """A subtree in a block of its own: kind LEAF or BRANCH, its number of entries, their bytes, block id.

    ``size`` sums ``ENTRY_OVERHEAD + len(value)`` over the entries.
    """

    kind: int
    entries: int
    size: int
    id: bytes


class Child(NamedTuple):
    """What a branch holds under digits ``digit`` to ``digit + 2**span - 1``. A branch child has span 0."""

    digit: int
    span: int
    ref: Ref


class Leaf:
    """A decoded leaf. ``keys`` ascend; values are sliced out of the encoding when asked for.

    ``id``: of its block, if it has one of its own. ``made``: by index, what readers have made of values, for others;
    ``prepaid``: bytes that the cache counts for it already, though they are not there yet.
    """

    __slots__ = ("_data", "_ends", "_start", "id", "keys", "made", "prepaid", "size")

    def __init__(self, keys: array[int], ends: array[int], start: int, data: bytes) -> None:
        self.keys = keys
        self._ends = ends
        self._start = start
        self._data = data
        self.size = len(data) - LEAF_OVERHEAD
        self.id = b""
        self.made: dict[int, Any] = {}
        self.prepaid = 0

    def value(self, index: int) -> bytes:
        """The value of ``keys[index]`` (index from 0)."""
        start = self._start
        ends = self._ends
        return self._data[start + ends[index - 1] if index else start : start + ends[index]]

    def values(self) -> list[bytes]:
        """All values, in key order."""
        data, start = self._data, self._start
        bounds = [start, *[start + end for end in self._ends]]
        return [data[a:b] for a, b in pairwise(bounds)]


class Branch:
    """A decoded branch: keys from ``base`` to ``base + 2**(shift + 6) - 1``, split by the digit at ``shift``.

    ``entries`` and ``size`` are sums over the children; ``table[digit]`` is the child that covers a digit, or None.
    """

    __slots__ = ("base", "children", "entries", "shift", "size", "table")

    def __init__(self, base: int, shift: int, children: tuple[Child, ...]) -> None:
        self.base = base
        self.shift = shift
        self.children = children
        self.entries = sum([child.ref.entries for child in children])
        self.size = sum([child.ref.size for child in children])
        table: list[Child | None] = [None] * (1 << DIGIT_BITS)
        for child in children:
            if child.span:
                table[child.digit : child.digit + (1 << child.span)] = [child] * (1 << child.span)
            else:
                table[child.digit] = child
        self.table = table

    @property
    def end(self) -> int:
        """One past the last key that the branch can hold."""
        return self.base + (1 << (self.shift + DIGIT_BITS))


def encode_leaf(keys: list[int], values: list[bytes]) -> bytes:
    """Keys ascending strictly, each with its value -> a leaf. At least one entry, values 64 KiB together."""
    key_array = array("Q", keys)
    ends = array("H", accumulate(map(len, values)))
    if _SWAP:
        key_array.byteswap()
        ends.byteswap()
    return b"".join((_LEAF_HEAD.pack(LEAF, 0, len(keys)), key_array.tobytes(), ends.tobytes(), *values))


def decode_leaf(data: bytes) -> Leaf:
    """The inverse of :func:`encode_leaf`. Raises :class:`Corrupt`."""
    try:
        kind, zero, count = _LEAF_HEAD.unpack_from(data)
    except struct.error:
        raise Corrupt("tree leaf: too short") from None
    if kind != LEAF or zero or not count:
        raise Corrupt("tree leaf: wrong kind, or no entry")
    keys_end = LEAF_OVERHEAD + 8 * count
    start = keys_end + 2 * count
    if start > len(data):
        raise Corrupt("tree leaf: too short")
    keys = array("Q", data[LEAF_OVERHEAD:keys_end])
    ends = array("H", data[keys_end:start])
    if _SWAP:
        keys.byteswap()
        ends.byteswap()
    if start + ends[-1] != len(data):
        raise Corrupt("tree leaf: values do not fill it")
    if count > 1 and not (all(map(lt, keys, keys[1:])) and all(map(le, ends, ends[1:]))):
        raise Corrupt("tree leaf: keys or offsets not in order")
    return Leaf(keys, ends, start, data)


def encode_branch(base: int, shift: int, children: list[Child]) -> bytes:
    """Children in digit order -> a branch."""
    pack = _CHILD.pack
    return _BRANCH_HEAD.pack(BRANCH, shift, len(children), base) + b"".join(
        [pack(digit, kind << 4 | span, count, size, id_) for digit, span, (kind, count, size, id_) in children]
    )


def decode_branch(data: bytes) -> Branch:
    """The inverse of :func:`encode_branch`. Raises :class:`Corrupt`."""
    if len(data) < _BRANCH_HEAD.size:
        raise Corrupt("tree branch: too short")
    kind, shift, count, base = _BRANCH_HEAD.unpack_from(data)
    if kind != BRANCH or shift > TOP_SHIFT or shift % DIGIT_BITS or base & ((1 << (shift + DIGIT_BITS)) - 1):
        raise Corrupt("tree branch: wrong kind, shift or base")
    if not 2 <= count <= 1 << DIGIT_BITS or len(data) != _BRANCH_HEAD.size + count * _CHILD.size:
        raise Corrupt("tree branch: wrong number of children")
    digits = 1 << (4 if shift == TOP_SHIFT else DIGIT_BITS)
    children: list[Child] = []
    free = 0
    for digit, info, entries, size, id_ in _CHILD.iter_unpack(memoryview(data)[_BRANCH_HEAD.size :]):
        child_kind, span = info >> 4, info & 15
        if digit < free or span >= DIGIT_BITS or digit & ((1 << span) - 1) or digit + (1 << span) > digits:
            raise Corrupt("tree branch: digits not in order, aligned or in range")
        if child_kind == BRANCH:
            if span or not shift or entries < 2:
                raise Corrupt("tree branch: impossible child branch")
        elif child_kind != LEAF or not entries:
            raise Corrupt("tree branch: unknown child kind or empty child")
        if size < entries * ENTRY_OVERHEAD:
            raise Corrupt("tree branch: impossible byte count")
        free = digit + (1 << span)
        children.append(Child(digit, span, Ref(child_kind, entries, size, id_)))
    return Branch(base, shift, tuple(children))


def decode_node(data: bytes) -> Leaf | Branch:
    """A node block, by its first byte. Raises :class:`Corrupt`."""
    return decode_branch(data) if data[:1] == b"\x02" else decode_leaf(data)


def encode_ref(ref: Ref) -> bytes:
    """The pointer to a tree whose top node is a block: 49 bytes."""
    return _REF.pack(_LEAF_REF if ref.kind == LEAF else _BRANCH_REF, ref.entries, ref.size, ref.id)


def decode_pointer(pointer: bytes) -> Leaf | Ref | None:
    """A whole tree's pointer: None for the empty tree, the leaf if it is inline, else the reference.

    Raises :class:`Corrupt`.
    """
    if not pointer:
        return None
    tag = pointer[0]
    if tag == LEAF:
        return decode_leaf(pointer)
    if tag not in (_LEAF_REF, _BRANCH_REF) or len(pointer) != _REF.size:
        raise Corrupt("tree pointer: unknown kind or wrong length")
    _, count, size, id_ = _REF.unpack(pointer)
    if size < count * ENTRY_OVERHEAD or count < (1 if tag == _LEAF_REF else 2):
        raise Corrupt("tree pointer: impossible counts")
    return Ref(LEAF if tag == _LEAF_REF else BRANCH, count, size, id_)


def ref_id(pointer: bytes) -> bytes:
    """The block id in a pointer that is neither empty nor an inline leaf. Raises :class:`Corrupt`."""
    if len(pointer) != _REF.size or pointer[0] not in (_LEAF_REF, _BRANCH_REF):
        raise Corrupt("tree pointer: unknown kind or wrong length")
    return pointer[-ID_BYTES:]


@dataclass(frozen=True, slots=True)
class Root:
    """One complete filesystem state. ``table`` is the pointer to its inode table."""

    table: bytes


def encode_root(root: Root) -> bytes:
    """The root block; its id is the root's name."""
    return _ROOT.pack(_ROOT_MAGIC, len(root.table)) + root.table


def decode_root(data: bytes) -> Root:
    """The inverse of :func:`encode_root`. Raises :class:`Corrupt`."""
    if len(data) < _ROOT.size:
        raise Corrupt("root block: too short")
    magic, length = _ROOT.unpack_from(data)
    table = data[_ROOT.size :]
    if magic != _ROOT_MAGIC or length != len(table):
        raise Corrupt("root block: wrong magic or length")
    decode_pointer(table)
    return Root(table)


assert _REF.size == 17 + ID_BYTES
