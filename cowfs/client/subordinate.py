"""Subordinate ids: those of the host that an ordinary user may use beside the own, in a user namespace.

subuid(5) and subgid(5) say which. They count where newuidmap(1) and newgidmap(1) are there, without which nobody can
use them.
"""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

TOOLS: Final = ("newuidmap", "newgidmap")
FILES: Final = ("/etc/subuid", "/etc/subgid")

RANGES_MAX: Final = 340
"""Ranges of one map, as in the kernel."""

_NO_ID: Final = 0xFFFFFFFF

Range = tuple[int, int]
"""(first host id, how many)"""


class Grants(NamedTuple):
    """What the files grant to a user, and which of the tools are ``missing``."""

    users: list[Range]
    groups: list[Range]
    missing: list[str]


def grants(uid: int) -> Grants:
    """Those of the user ``uid``."""
    names = [str(uid)]
    with suppress(KeyError):
        names.append(pwd.getpwuid(uid).pw_name)
    users, groups = (_read(path, names) for path in FILES)
    return Grants(users, groups, [tool for tool in TOOLS if shutil.which(tool) is None])


def granted(lines: Iterable[str], names: Sequence[str]) -> list[Range]:
    """The ranges that subuid(5) or subgid(5) grants to a user of one of ``names`` (its name, its number).

    A line that makes no sense is left out, as newuidmap(1) does.
    """
    ranges: list[Range] = []
    for line in lines:
        name, *numbers = line.strip().split(":")
        if name in names and len(numbers) == 2 and all(each.isascii() and each.isdecimal() for each in numbers):
            first, count = int(numbers[0]), int(numbers[1])
            if first > 0 and count > 0 and first + count < _NO_ID and len(ranges) < RANGES_MAX - 1:
                ranges.append((first, count))
    return ranges


def _read(path: str, names: list[str]) -> list[Range]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return granted(text.splitlines(), names)
