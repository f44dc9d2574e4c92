"""What is done to files of a live workspace by their paths, without a mount."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from cowfs.host import Host
from cowfs.subtrees import Part


class Paths:
    """``ready(name)`` has the host serve a workspace; its id. ``verbs``: the lock of each, for one verb at a time.
    ``ids(prefix)`` gives new ids."""

    def __init__(
        self, host: Host, ready: Callable[[str], str], verbs: Mapping[str, AbstractContextManager[object]],
        ids: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._host = host
        self._ready = ready
        self._verbs = verbs
        self._ids = ids

    def remove(self, ws: str, path: bytes, pause: Callable[[], None] = lambda: None) -> int:
        """Remove a file or a whole directory; how many names went. ``pause()``: wait a moment for settling.

        Raises as :class:`cowfs.subtrees.Removal`.
        """

        def ask(workspace: str, token: str, first: bool) -> Part:
            return self._host.remove_path(workspace, token, path if first else None)

        return self._all(ws, ask, pause)

    def clone(self, ws: str, source: bytes, target: bytes, pause: Callable[[], None] = lambda: None) -> int:
        """Clone a file or a whole directory to a new path; how many names were made. ``pause`` as for :meth:`remove`.

        Raises as :class:`cowfs.subtrees.Clone`.
        """

        def ask(workspace: str, token: str, first: bool) -> Part:
            return self._host.clone_path(workspace, token, (source, target) if first else None)

        return self._all(ws, ask, pause)

    def _all(self, ws: str, ask: Callable[[str, str, bool], Part], pause: Callable[[], None]) -> int:
        """Every part of a job; between them, checkpoints and other verbs have their turn."""
        token, count, first = self._ids("job"), 0, True
        while True:
            workspace = self._ready(ws)
            with self._verbs[workspace]:
                part = ask(workspace, token, first)
            count, first = count + part.names, False
            if part.done:
                return count
            if part.pressed:
                pause()
