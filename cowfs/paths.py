"""What is done to files of a live workspace by their paths, without a mount."""

from __future__ import annotations

from collections.abc import Callable

from cowfs.host import Host


class Paths:
    """``open_workspace(name)`` has the host serve a workspace; its id."""

    def __init__(self, host: Host, open_workspace: Callable[[str], str]) -> None:
        self._host = host
        self._open = open_workspace

    def remove(self, ws: str, path: bytes) -> int:
        """See :func:`cowfs.subtrees.remove`."""
        return self._host.remove_path(self._open(ws), path)

    def clone(self, ws: str, source: bytes, target: bytes) -> int:
        """See :func:`cowfs.subtrees.clone`."""
        return self._host.clone_path(self._open(ws), source, target)
