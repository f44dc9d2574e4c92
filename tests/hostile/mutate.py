"""Seeded damage to byte strings: what disks, cut writes and attackers do to records."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)
WIDE = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)

Change = Callable[[Random, bytearray], None]


def _flip(random: Random, data: bytearray) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _byte(random: Random, data: bytearray) -> None:
    data[random.randrange(len(data))] = random.choice(INTERESTING)


def _wide(random: Random, data: bytearray) -> None:
    size = random.choice((2, 4, 8))
    at = random.randrange(len(data))
    number = random.choice(WIDE) + random.randrange(3)
    data[at : at + size] = (number & (1 << 8 * size) - 1).to_bytes(size, random.choice(("little", "big")))


def _cut(random: Random, data: bytearray) -> None:
    del data[random.randrange(len(data)) :]


def _cut_head(random: Random, data: bytearray) -> None:
    del data[: random.randrange(len(data))]


def _remove(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randrange(1, 9)]


def _insert(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.randrange(1, 9))


def _repeat(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    part = data[at : at + random.randrange(1, 33)]
    data[at:at] = part


def _zero(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    size = min(random.randrange(1, 65), len(data) - at)
    data[at : at + size] = bytes(size)


CHANGES: tuple[Change, ...] = (
    _flip,
    _flip,
    _byte,
    _byte,
    _wide,
    _wide,
    _cut,
    _cut_head,
    _remove,
    _insert,
    _repeat,
    _zero,
)


def mutate(random: Random, data: bytes) -> bytes:
    """``data`` with one to four changes; now and then random bytes instead."""
    if not data or not random.randrange(64):
        return random.randbytes(random.randrange(100))
    changed = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        random.choice(CHANGES)(random, changed)
        if not changed:
            break
    return bytes(changed)


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 63, -(1 << 70), 1.5, 1e308, "", "x", "\ud800", "a\0b", "../..", "\u202e", "x" * 300,
    [], {}, [[]], {"": {}}, {"b": "!"}, {"b": "\u00e9"}, {"r": "Done", "v": 1}, {"r": [], "v": []}, {"d": [1]},
    {"d": [[[], 1]]},
)  # fmt: skip
VALUES = tuple(json.dumps(value) for value in _VALUES)
"""What hostile JSON may hold anywhere."""


def mutate_json(random: Random, data: bytes) -> bytes:
    """JSON text with one to three of its values, keys or items changed: it stays JSON."""
    box = [json.loads(data)]
    for _ in range(random.randrange(1, 4)):
        holder: Any = box
        while True:
            key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner or not random.randrange(4):
                break
            holder = inner
        _change_json(random, holder, key)
        if not box:
            box = [None]
    return json.dumps(box[0]).encode()


def _change_json(random: Random, holder: Any, key: Any) -> None:
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(("", "extra", key.upper()))] = holder.pop(key)
        case 1:
            holder.append(copy.deepcopy(holder[key]))
        case 2 if isinstance(holder, dict):
            holder["extra"] = json.loads(random.choice(VALUES))
        case _:
            holder[key] = json.loads(random.choice(VALUES))
