"""Telling the kernel names before it asks: a lookup is a round trip for each file, a listing one for hundreds.

Who knows the names already (git status, a build, an installer) looks at one file after the other of a directory that
it never lists. When it has asked for a few that the kernel did not know, a process lists some more of that directory
through the mount (:mod:`.lister`), as ``ls -l`` would: READDIRPLUS brings names, inodes and attributes. For each name
that was asked for at most about :data:`FACTOR` are told, so that who wants few of a large directory does not pay for
all. When nearly every directory of late came to that, the first name of the next one is enough; one in
:data:`PROBED` of them still has to show it.

Meanwhile who asks for another name of that directory waits for the listing, for :data:`HELD_S` at most: what it would
ask for next is known then. It must not wait longer: who lists waits itself where somebody is about to change the
directory, who waits for those that look there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic

from cowfs_daemon.fuse import listing

ASKED_MIN = 4
"""Names of one directory that are asked for before others are told."""

FACTOR = 12
"""Names told for each that was asked for."""

TOLD_MAX = 384
"""Names told at a time: until they are, other requests wait."""

HELD_S = 0.03
"""For how long a request waits at most."""

PAUSE_MAX_S = 1.0
"""For how long none waits at most when some did in vain: first for HELD_S, each time for twice as long."""

HELD_MAX = 64
"""Requests that wait at a time."""

DIRECTORIES_MAX = 64
"""Directories that are counted at a time."""

PROBED = 8
"""One directory in so many is not told ahead before it has been asked for ASKED_MIN names."""

WIDELY = 8
"""So much of a score of at most twice that makes the first name enough: a directory that has to show it takes one away,
one that has shown it adds two."""


class _Directory:
    """``due``: how many have to be asked for before (more) names are told; ``probe``: it has to show what is usual."""

    __slots__ = ("asked", "cookie", "due", "probe")

    def __init__(self, *, probe: bool) -> None:
        self.asked = 0
        self.due = ASKED_MIN if probe else 1
        self.cookie = 0
        self.probe = probe


class _Held:
    """Requests that wait for the listing of one directory, until a time of ``monotonic``."""

    __slots__ = ("requests", "until")

    def __init__(self) -> None:
        self.requests: list[bytearray] = []
        self.until = 0.0


class Ahead:
    """Counts what is asked for in each directory. Called under the workspace's lock.

    ``tell(directory, cookie, names)`` has about so many names behind the cookie told by somebody else, who calls
    :meth:`told` then; False: not now.

    ``waiting``: how many requests are held back, those in ``due`` included, which are to be answered now.
    ``holds``: False while they are, so that none comes back.
    """

    def __init__(self, tell: Callable[[int, int, int], bool]) -> None:
        self._tell = tell
        self._directories: dict[int, _Directory] = {}
        self._telling: dict[int, _Held | None] = {}
        self._met = self._score = 0
        self._not_before = 0.0
        self._pause_s = HELD_S
        self.holds = True
        self.due: list[bytearray] = []
        self.waiting = 0

    def asked(self, directory: int) -> bool:
        """The kernel has asked for a name in ``directory`` whose inode it did not know. Whether others are being told:
        the answer may :meth:`hold` then."""
        if not self.holds:  # it was counted when it came
            return False
        one = self._directories.get(directory)
        if one is None:
            if len(self._directories) >= DIRECTORIES_MAX:
                del self._directories[next(iter(self._directories))]
            one = self._directories[directory] = self._new()
        one.asked += 1
        if one.probe and one.asked == ASKED_MIN:
            one.probe = False
            self._score = min(self._score + 2, 2 * WIDELY)
        if one.asked >= one.due and directory not in self._telling:
            names = min(max(one.asked, ASKED_MIN) * FACTOR, TOLD_MAX)
            if self._tell(directory, one.cookie, names):
                self._telling[directory] = _Held() if monotonic() >= self._not_before else None
                one.due = one.asked + names // FACTOR
        return directory in self._telling

    def _new(self) -> _Directory:
        self._met += 1
        probe = self._score < WIDELY or not self._met % PROBED
        if probe and self._score:
            self._score -= 1
        return _Directory(probe=probe)

    def hold(self, directory: int, request: bytearray, size: int) -> bool:
        """Whether a request waits until it comes to ``due``, as the names of its directory are being told."""
        held = self._telling.get(directory)
        if held is None or self.waiting >= HELD_MAX:
            return False
        if not held.requests:
            held.until = monotonic() + HELD_S
        held.requests.append(request[:size])
        self.waiting += 1
        return True

    def listed(self, directory: int) -> None:
        """A listing of ``directory`` has been answered."""
        if self._release(directory):
            self._pause_s = HELD_S

    def _release(self, directory: int) -> bool:
        """What waits for a directory is due, and nothing waits for this listing of it any more; whether any might."""
        held = self._telling.get(directory)
        if held is None:
            return False
        self.due += held.requests
        self._telling[directory] = None
        return True

    def told(self, directory: int, cookie: int, state: int) -> None:
        """What :meth:`asked` began is done, as far as ``cookie``. ``state``: 0, an errno or :data:`.listing.END`."""
        self._release(directory)
        self._telling.pop(directory, None)
        one = self._directories.get(directory)
        if one is None:
            return
        one.cookie = cookie
        if state == listing.END:
            del self._directories[directory]
        elif state:
            one.due = sys.maxsize

    def take(self, *, all_of_them: bool) -> list[bytearray]:
        """The requests that are to be answered now, or those that have waited for long, too."""
        if self.waiting > len(self.due):
            now = monotonic()
            late = [
                directory
                for directory, held in self._telling.items()
                if held is not None and held.requests and (all_of_them or now >= held.until)
            ]
            for directory in late:
                self._release(directory)
            if late:
                self._not_before = now + self._pause_s
                self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        due, self.due = self.due, []
        self.waiting -= len(due)
        return due
