"""Where :mod:`.fsx` works: a store with one workspace mounted at a time, through either transport."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Protocol

from cowfs.client.store import WorkspaceHandle, connect
from cowfs.errors import Busy
from tests.support.foreground import Foreground
from tests.support.lab import InlineSettler
from tests.support.live import Live

FIRST = "ws"
"""The workspace that is there in the beginning."""

_SEGMENT_BYTES = 4 << 20  # a segment that is gone on with is read again: not too much at a time
_CLOSED_S = 10.0


class World(Protocol):
    """``lacks``: steps that this transport cannot do. ``lets_go``: files must be closed before a restore."""

    lacks: frozenset[str]
    lets_go: bool

    def serve(self, name: str) -> Path:
        """Mount this workspace and no other any more; its path."""

    def checkpoint(self) -> str:
        """The id of a new snapshot of what is mounted."""

    def restore(self, snapshot: str, *, discard: bool) -> None:
        """Go back to a snapshot of what is mounted."""

    def fork(self, snapshot: str, name: str) -> None:
        """Make a workspace."""

    def settle(self) -> None:
        """Settle everything."""

    def journaled(self) -> int | None:
        """Bytes in the journal of the live layer; None: that is not seen from here."""

    def close(self) -> None:
        """Unmount, and check the store."""


class Kernel:
    """The kernel transport, in this process."""

    lacks: frozenset[str] = frozenset()
    lets_go = False

    def __init__(self, directory: Path) -> None:
        self._live = Live(directory, inline=True)
        self._live.engine.settler = InlineSettler(self._live.engine, _SEGMENT_BYTES)
        self._live.engine.create(FIRST)
        self._name = ""

    def serve(self, name: str) -> Path:
        """See World."""
        if self._name:
            self._live.unmount(self._name)
        self._name = name
        return self._live.mount(name)

    def checkpoint(self) -> str:
        """See World."""
        return self._live.engine.checkpoint(self._name, "fsx", allow_empty=True).snapshot.id

    def restore(self, snapshot: str, *, discard: bool) -> None:
        """See World."""
        self._live.engine.restore(self._name, snapshot, discard=discard)

    def fork(self, snapshot: str, name: str) -> None:
        """See World."""
        self._live.engine.fork(snapshot, name)

    def settle(self) -> None:
        """See World."""
        self._live.engine.settle()

    def journaled(self) -> int:
        """See World."""
        return self._live.workspace(self._name).journal.layer_bytes()

    def close(self) -> None:
        """See World."""
        self._live.close()


class Pyfuse3:
    """A mount in the foreground, in a process of its own, which settles when it wants to."""

    lacks = frozenset({"punch", "zero", "allocate", "settle"})
    lets_go = True

    def __init__(self, directory: Path) -> None:
        self._foreground = Foreground(directory)
        self._name = ""

    def _workspace(self) -> WorkspaceHandle:
        return connect(self._foreground.live.store, start=False).workspace(self._name)

    def serve(self, name: str) -> Path:
        """See World."""
        if self._name:
            assert self._foreground.end() == 0
        self._name, path = name, self._foreground.path
        self._foreground.start("mount", name, str(path), "--foreground", "--transport", "pyfuse3")
        return path

    def checkpoint(self) -> str:
        """See World."""
        return self._workspace().checkpoint("fsx", allow_empty=True).snapshot.id

    def restore(self, snapshot: str, *, discard: bool) -> None:
        """See World. The kernel says that a file was closed some time after it was."""
        until = time.monotonic() + _CLOSED_S
        while True:
            try:
                self._workspace().restore(snapshot, discard=discard)
            except Busy:
                if time.monotonic() > until:
                    raise
                threading.Event().wait(0.01)
            else:
                return

    def fork(self, snapshot: str, name: str) -> None:
        """See World."""
        with connect(self._foreground.live.store, start=False) as store:
            store.fork(snapshot, name)

    def settle(self) -> None:
        """Left to the server, which settles when it wants to."""

    def journaled(self) -> None:
        """See World."""
        return

    def close(self) -> None:
        """See World."""
        self._foreground.close()


WORLDS: dict[str, type[Kernel] | type[Pyfuse3]] = {"kernel": Kernel, "pyfuse3": Pyfuse3}
