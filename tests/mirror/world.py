"""What every workspace and snapshot must hold: plain copies, and all that a look at the mounted tree showed once."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.treehash import Facts, TreeHash, differences, hash_directory

State = dict[bytes, Facts]
"""Facts of every path, identity (inode number, link count, ctime, btime, size of directories) included."""


@dataclass
class Point:
    """A snapshot of ``owner`` (a workspace's number): the plain copy and the facts. ``automatic`` ones may go."""

    owner: int
    copy: Path
    state: State
    automatic: bool


@dataclass
class Workspace:
    """``copy`` has what the live state must have; ``number`` never changes, the name may."""

    number: int
    name: str
    copy: Path
    state: State = field(default_factory=dict)
    held: list[int] = field(default_factory=list)

    def let_go(self) -> None:
        """Close the files that are held open in it."""
        while self.held:
            os.close(self.held.pop())


def look(root: Path) -> State:
    """Everything that can be seen below a mount."""
    return hash_directory(root, identity=True).facts


def bare(state: State) -> State:
    """Without what a plain copy cannot share."""
    return {path: facts._replace(identity=None) for path, facts in state.items()}


def unlike(found: State, wanted: State) -> list[str]:
    """How two states differ, a line for each path."""
    if found == wanted:
        return []
    return differences(_hash(found), _hash(wanted), limit=8)


def _hash(state: State) -> TreeHash:
    return TreeHash("", {path: repr(facts) for path, facts in state.items()}, state)


def against_copy(found: State, copy: Path) -> list[str]:
    """How what a mount shows differs from a plain copy, whose times of modification are set to those of the mount."""
    for path, facts in sorted(found.items(), reverse=True):
        plain = os.path.join(os.fsencode(copy), path)
        if os.path.lexists(plain):
            os.utime(plain, ns=(facts.mtime, facts.mtime), follow_symlinks=False)
    return unlike(bare(found), hash_directory(copy).facts)


def copy_tree(source: Path, target: Path) -> None:
    """Make ``target`` a plain copy of ``source``: links, owners, times and attributes included."""
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
