"""Telling the kernel names before it asks: a lookup is a round trip for each file, a listing one for hundreds.

Who knows the names already (git status, a build, an installer) looks at one file after the other of a directory that
it never lists. When it has asked for a few that the kernel did not know, a process lists some more of that directory
through the mount (:mod:`.lister`), as ``ls -l`` would: READDIRPLUS brings names, inodes and attributes. For each name
that was asked for at most about :data:`FACTOR` are told, so that who wants few of a large directory does not pay for
all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from cowfs_daemon.fuse import listing

ASKED_MIN = 4
"""Names of one directory that are asked for before others are told."""

FACTOR = 12
"""Names told for each that was asked for."""

TOLD_MAX = 384
"""Names told at a time: until they are, other requests wait."""

DIRECTORIES_MAX = 64
"""Directories that are counted at a time."""


class _Directory:
    __slots__ = ("asked", "cookie", "due")

    def __init__(self) -> None:
        self.asked = 0
        self.due = ASKED_MIN
        self.cookie = 0


class Ahead:
    """Counts what is asked for in each directory. Called under the workspace's lock.

    ``tell(directory, cookie, names)`` has about so many names behind the cookie told by somebody else, who calls
    :meth:`told` then; False: not now.
    """

    def __init__(self, tell: Callable[[int, int, int], bool]) -> None:
        self._tell = tell
        self._directories: dict[int, _Directory] = {}
        self._telling = False

    def asked(self, directory: int) -> None:
        """The kernel has asked for a name in ``directory`` whose inode it did not know."""
        one = self._directories.get(directory)
        if one is None:
            if len(self._directories) >= DIRECTORIES_MAX:
                del self._directories[next(iter(self._directories))]
            one = self._directories[directory] = _Directory()
        one.asked += 1
        if one.asked >= one.due and not self._telling:
            names = min(one.asked * FACTOR, TOLD_MAX)
            if self._tell(directory, one.cookie, names):
                self._telling = True
                one.due = one.asked + names // FACTOR

    def told(self, directory: int, cookie: int, state: int) -> None:
        """What :meth:`asked` began is done, as far as ``cookie``. ``state``: 0, an errno or :data:`.listing.END`."""
        self._telling = False
        one = self._directories.get(directory)
        if one is None:
            return
        one.cookie = cookie
        if state == listing.END:
            del self._directories[directory]
        elif state:
            one.due = sys.maxsize
