"""A snapshot as a transport serves it: a view that cannot change."""

import threading

from cowfs.layers.journal import NoJournal
from cowfs.view.room import Room
from cowfs.view.state import State
from cowfs.view.view import View
from cowfs.workspace import Env


class FrozenWorkspace:
    """Stands where a Workspace stands for a transport; every mutation is EROFS."""

    def __init__(self, env: Env, state: State) -> None:
        self.lock = threading.RLock()
        self.view = View(state, NoJournal(env.journals), env.clock, Room(env.disk))

    def root(self) -> bytes:
        """The root whose blocks are read here."""
        layer = self.view.state.parent
        while layer is not None and layer.root is None:
            layer = layer.parent
        return layer.root or b"" if layer is not None else b""

    def answer(self, connection: int, unique: int) -> None:
        """No request changes anything, so none was carried out."""

    def sync(self) -> None:
        """Nothing to make durable."""

    def pressed(self) -> None:
        """Nothing waits to be settled."""
