"""What a check found."""

from __future__ import annotations

from typing import Any, NamedTuple

AFFECTED_MAX = 20
"""Places that a problem names at most; it counts all of them."""

KINDS: dict[str, str] = {
    "block": "Files named are lost where they use it (EIO), the rest is whole. Restore them from another snapshot or "
    "import them again: equal content takes the place of the lost block.",
    "root": "Nothing of this state can be read. Remove it (cowfs rm), or import it again: the same content has the "
    "same root.",
    "tree": "Report this: cowfs wrote a tree in another shape than it should have. Its content can be read.",
    "inode": "Report this: an inode is not as cowfs writes it. Copy the file, remove it.",
    "directory": "Report this: a directory is not as cowfs writes it. Copy what is in it, remove it.",
    "links": "Report this: names and link counts do not agree. Copy what it is about, remove it.",
    "index-usage": "cowfs fsck --repair makes the index anew.",
    "index-place": "cowfs fsck --repair makes the index anew.",
    "index": "cowfs fsck --repair makes the index anew.",
    "segment": "cowfs fsck --repair copies what is whole out of it, and puts it in quarantine.",
    "journal": "cowfs fsck --repair keeps what lies behind the damage in quarantine, and lets the workspace go on. "
    "Or leave it as it is, and fork it.",
    "journal-orphan": "cowfs fsck --repair puts it in quarantine.",
    "layer": "Snapshots and workspaces named cannot be read. Restore the journal from a copy of the store, or remove "
    "them (cowfs rm).",
    "catalog-layer": "Report this: layers contradict each other.",
    "catalog-workspace": "Report this: a workspace's entry contradicts others.",
    "catalog-snapshot": "Report this: a snapshot's entry contradicts others.",
    "catalog-label": "Report this: a label is not as cowfs writes it. Give its snapshot another one.",
    "catalog-result": "It is forgotten within a day; a request with that key fails until then.",
    "catalog-setting": "Report this: a setting outlived what it was made for. It has no effect.",
    "catalog-table": "Report this: a table in memory is wrong. Stop the daemon: the next start makes it anew.",
}
"""Every kind of problem, and what to do about it. Kinds are stable: scripts may rely on them."""


class Problem(NamedTuple):
    """``where``: a root with inode and path, a block, a layer, a workspace; ``what`` is wrong with it, on one line.

    ``kind``: one of KINDS. ``affected``: what of the user's it hurts, ``ws-1@good: usr/bin/git`` or ``ws-1``, up to
    AFFECTED_MAX of ``affected_count``.
    """

    where: str
    what: str
    kind: str
    affected: tuple[str, ...] = ()
    affected_count: int = 0

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS[self.kind]

    def shape(self) -> dict[str, Any]:
        """As the API and ``--json`` say it."""
        return {**self._asdict(), "affected": list(self.affected), "advice": self.advice}

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if not self.affected:
            return text
        more = self.affected_count - len(self.affected)
        return text + "; affects " + ", ".join(self.affected) + (f" and {more} more" if more > 0 else "")


class Affected:
    """Collects what a problem affects, each thing once as long as it is listed."""

    def __init__(self) -> None:
        self._named: dict[str, None] = {}
        self._more = 0

    def add(self, place: str) -> None:
        """One more place."""
        if place in self._named:
            return
        if len(self._named) < AFFECTED_MAX:
            self._named[place] = None
        else:
            self._more += 1

    def problem(self, where: str, what: str, kind: str) -> Problem:
        """The problem with all of it."""
        return Problem(where, what, kind, tuple(self._named), len(self._named) + self._more)


def shown(name: bytes) -> str:
    """A file name or path on one printable line."""
    return ascii(name.decode("utf-8", "surrogateescape"))
