"""What a repair did, and where it put what it took away."""

from __future__ import annotations

from typing import Any, NamedTuple

LOST_MAX = 50
"""Things that one step names as lost at most; one more line counts the others."""


class Repaired(NamedTuple):
    """One thing done. ``where``: a path within the store; ``quarantine``: where what was there is kept, or nothing.

    ``lost``: what of the user's is lost by the damage, a line each.
    """

    where: str
    what: str
    quarantine: str = ""
    lost: tuple[str, ...] = ()

    def shape(self) -> dict[str, Any]:
        """As ``--json`` says it."""
        return {**self._asdict(), "lost": list(self.lost)}


def bounded(lost: list[str]) -> tuple[str, ...]:
    """So many lines that they can be shown."""
    if len(lost) <= LOST_MAX:
        return tuple(lost)
    return (*lost[:LOST_MAX], f"and {len(lost) - LOST_MAX} more")
