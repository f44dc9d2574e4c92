"""A snapshot as a transport serves it: a view that cannot change."""

import errno
import os
import threading

from cowfs.layers.journal import Journal, Position
from cowfs.view.state import State
from cowfs.view.view import View
from cowfs.workspace import Env


class _NoJournal(Journal):
    """Refuses every record: the mount is read-only, so only a defect could bring one here."""

    def append(self, *arguments: object) -> None:  # type: ignore[override]
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def append_write(self, *arguments: object) -> None:  # type: ignore[override]
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


class FrozenWorkspace:
    """Stands where a Workspace stands for a transport; every mutation is EROFS."""

    def __init__(self, env: Env, state: State) -> None:
        self.lock = threading.RLock()
        self.view = View(state, _NoJournal(env.journals, "", Position(0, 0, 0)), env.clock, env.space)

    def answer(self, connection: int, unique: int) -> None:
        """No request changes anything, so none was carried out."""

    def sync(self) -> None:
        """Nothing to make durable."""

    def pressed(self) -> None:
        """Nothing waits to be settled."""
