"""A worker that kills itself: ``python -m tests.workers.doomed`` is the real one with points at which it may die.

Whenever the file named by COWFS_TEST_DOOM exists, points are counted: before and after each journal record, and before
each reply and notification (not when it says ``records`` behind the number). At the point whose number the file holds,
the file is removed and the process kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from cowfs.layers.journal import Journal
from cowfs_daemon import worker
from cowfs_daemon.fuse.dispatch import HANDLERS
from cowfs_daemon.fuse.transport import Transport

_DOOM = os.environ["COWFS_TEST_DOOM"]
_passed = 0


def _point(reply: bool = False) -> None:
    global _passed
    try:
        with open(_DOOM) as file:
            number, _, only = (file.read() or "0").partition(" ")
    except FileNotFoundError:
        _passed = 0
        return
    if reply and only:
        return
    _passed += 1
    if _passed == int(number):
        os.unlink(_DOOM)
        os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """Put the points in."""
    write = Journal._write

    def doomed_write(self: Journal, *arguments: Any) -> Any:
        _point()
        position = write(self, *arguments)
        _point()
        return position

    notify = Transport._notify

    def doomed_notify(self: Transport, message: bytes) -> bool:
        _point(reply=True)
        return notify(self, message)

    Transport._notify = doomed_notify  # type: ignore[method-assign]
    Journal._write = doomed_write  # type: ignore[method-assign, assignment]
    for opcode, handler in enumerate(HANDLERS):

        def doomed(*arguments: Any, handler: Any = handler) -> Any:
            try:
                return handler(*arguments)
            finally:
                _point(reply=True)

        HANDLERS[opcode] = doomed


if __name__ == "__main__":
    arm()
    sys.exit(worker.main())
