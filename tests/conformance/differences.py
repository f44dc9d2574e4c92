"""What is known to differ from ext4, each with its reason; docs/posix.md lists the same.

An entry that its witness does not show any more fails the suite.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Difference(NamedTuple):
    """``case``, ``step`` and ``what`` (``result``, or ``PATH ATTRIBUTE``) are patterns; ``witness`` a case with it."""

    name: str
    case: str
    step: str
    what: str
    witness: str
    reason: str


KNOWN: tuple[Difference, ...] = ()


def explained(case: str, step: str, what: str) -> Difference | None:
    """The entry that covers a difference."""
    for known in KNOWN:
        if fnmatchcase(case, known.case) and fnmatchcase(step, known.step) and fnmatchcase(what, known.what):
            return known
    return None


def witnesses() -> frozenset[str]:
    """Cases that are always played."""
    return frozenset(known.witness for known in KNOWN)
