"""Who finds that the block index is damaged leaves word in a file beside it; whoever opens the store next rebuilds it.

The index is mapped memory: a page that cannot be read kills the process by SIGBUS, which nothing else here does. Two
such deaths are taken for damage. Standard library only: the keeper uses it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

SUSPECT_FILE = "suspect"
DEATHS_MAX = 2
"""Deaths by SIGBUS at which the index is suspected."""

_WHY_BYTES = 500


def suspect(index: Path, why: str) -> None:
    """Leave word that the index in the directory ``index`` is damaged; the first reason stays. Raises nothing."""
    with suppress(OSError):
        fd = os.open(index / SUSPECT_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, why.encode("utf-8", "replace")[:_WHY_BYTES])
        finally:
            os.close(fd)


def suspicion(index: Path) -> str | None:
    """Why the index is suspected to be damaged; None if it is not."""
    try:
        data = (index / SUSPECT_FILE).read_bytes()[:_WHY_BYTES]
    except OSError:
        return None
    return " ".join(data.decode("utf-8", "replace").split()) or "somebody said so"


def acquit(index: Path) -> None:
    """It is suspected no more: it was made anew."""
    (index / SUSPECT_FILE).unlink(missing_ok=True)


class Deaths:
    """Counts deaths of processes that have the index mapped, and draws the conclusion."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self._count = 0

    def died(self, who: str, code: int | None) -> None:
        """``code``: as ``Popen.returncode``; any but that of SIGBUS means nothing."""
        if code != -signal.SIGBUS:
            return
        self._count += 1
        if self._count >= DEATHS_MAX:
            suspect(self._index, f"{self._count} processes were killed by SIGBUS, the last a {who}")
