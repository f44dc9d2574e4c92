"""File names made to collide: under XXH64, whose rounds can be undone, and under a directory key of few bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from random import Random

from cowfs.tree.names import directory_key

_PRIME_1, _PRIME_2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
_U64 = (1 << 64) - 1
_INVERSE_2 = pow(_PRIME_2, -1, 1 << 64)
_FORBIDDEN = frozenset(b"\0/")


def _round(state: int, lane: int) -> int:
    state = state + lane * _PRIME_2 & _U64
    return ((state << 31 | state >> 33) & _U64) * _PRIME_1 & _U64


def xxh64_names(number: int, seed: int = 1) -> list[bytes]:
    """``number`` names of 64 bytes that all have the same XXH64 (seed 0).

    XXH64 takes 64 bytes as two stripes of four lanes: ``state = rotl(state + lane * P2, 31) * P1``. Whatever the first
    lane of the first stripe does to its state, the first lane of the second can undo, since P2 is odd.
    """
    random = Random(seed)
    rest = b"xxh64-collision-padding-"
    begin = _PRIME_1 + _PRIME_2 & _U64
    target = random.getrandbits(64)
    names: set[bytes] = set()
    while len(names) < number:
        first = random.getrandbits(64)
        second = (target - _round(begin, first)) * _INVERSE_2 & _U64
        name = first.to_bytes(8, "little") + rest + second.to_bytes(8, "little") + rest
        if not _FORBIDDEN & set(name):
            names.add(name)
    return sorted(names)


def key_names(bits: int, key: int) -> Iterator[bytes]:
    """Names without end whose directory key of so many bits is ``key``."""
    return (name for name in (b"name-%d" % number for number in count()) if directory_key(name, bits) == key)


def same_key(bits: int, number: int) -> list[bytes]:
    """``number`` names with one directory key of so many bits."""
    return list(islice(key_names(bits, 5), number))
