"""A worker in which something fails once: ``python -m tests.workers.failing`` is the real one.

The file named by COWFS_TEST_FAILURE holds what fails next, and is removed when it has: ``root``: opening the root of a
mount; ``gone``: the same, as if it had been unmounted; ``sync``: making a journal durable.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from cowfs_daemon import worker
from cowfs_daemon.fuse.handles import Handles

_FAILURE = os.environ["COWFS_TEST_FAILURE"]


def _point(name: str, number: int) -> None:
    try:
        with open(_FAILURE) as file:
            if file.read() != name:
                return
    except FileNotFoundError:
        return
    os.unlink(_FAILURE)
    raise OSError(number, os.strerror(number))


def arm() -> None:
    """Put the points in."""
    open_root, sync = Handles.open_root, os.fdatasync

    def failing_open_root(self: Handles, *arguments: Any) -> None:
        _point("root", errno.EMFILE)
        _point("gone", errno.ENOENT)
        open_root(self, *arguments)

    def failing_sync(fd: int) -> None:
        _point("sync", errno.EIO)
        sync(fd)

    Handles.open_root = failing_open_root  # type: ignore[method-assign, assignment]
    os.fdatasync = failing_sync  # type: ignore[assignment]


if __name__ == "__main__":
    arm()
    sys.exit(worker.main())
