"""Serves one workspace's verbs on a Unix socket that is shown to a sandbox.

Whoever can open the socket has the capability, and no request can name another workspace. It ends with this process
and with the workspace.
"""

from __future__ import annotations

import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

from cowfs.client.store import Store, WorkspaceHandle
from cowfs.errors import Busy, Conflict, CowfsError, Invalid
from cowfs.results import Snapshot
from cowfs_cli.agent import protocol

CONNECTIONS_MAX: Final = 8
"""At once; more wait."""

LINE_SECONDS: Final = 10.0
"""For the rest of a request that has begun, and for an answer to be taken."""

IDLE_SECONDS: Final = 600.0
CHANGES_MAX: Final = 10_000
"""Of a difference that are told."""

CREATOR: Final = "agent"


@dataclass(frozen=True)
class Grant:
    """What the sandbox may do. ``allowed``: of :data:`protocol.CHOICES`. ``per_minute``: requests; ``uid``: whose they
    must be, None: anybody's who can open the socket. ``forks``: how many it may make in all. ``around()``: a context
    for each restore; ``still()``: one for each checkpoint and fork, in which its files stand still."""

    allowed: frozenset[str] = frozenset()
    per_minute: int = 60
    uid: int | None = None
    forks: int = 16
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    still: Callable[[], AbstractContextManager[None]] = nullcontext


class _Bucket:
    """Lets ``per_minute`` through, and a third of that at once."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60
        self._most = self._left = max(per_minute / 3, 1.0)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """0, or the seconds to wait."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left >= 1:
                self._left -= 1
                return 0
            return (1 - self._left) / self._rate


class Agent:
    """Answers requests for the workspace ``name`` of ``store``."""

    def __init__(self, store: Store, name: str, grant: Grant) -> None:
        self._store = store
        self._name = name
        self._id = store.workspace(name).info().id
        self._grant = grant
        self._bucket = _Bucket(grant.per_minute)
        self._forks = 0
        self._lock = threading.Lock()

    def answer(self, line: bytes) -> bytes:
        """The answer to one request."""
        try:
            wait = self._bucket.take()
            if wait:
                raise Busy("too many requests", hint=f"Try again in {wait:.1f} s.")
            verb, fields = protocol.parse(line)
            if verb in protocol.CHOICES and verb not in self._grant.allowed:
                raise Conflict(f"the host does not allow {verb} from inside", hint="It can: --allow " + verb)
            workspace = self._store.workspace(self._name)
            if workspace.info().id != self._id:
                raise Conflict("the workspace that this was about is gone")
            return protocol.answer({"ok": getattr(self, "_" + verb)(workspace, **fields)})
        except CowfsError as error:
            return protocol.refused(error.code, error.message, error.hint)
        except Exception:
            return protocol.refused("internal", "the host failed", "This is a defect of cowfs.")

    def _ping(self, workspace: WorkspaceHandle) -> dict[str, Any]:
        return {"workspace": self._name, "verbs": [*protocol.ALWAYS, *sorted(self._grant.allowed)]}

    def _checkpoint(self, workspace: WorkspaceHandle, message: str = "", label: str | None = None) -> dict[str, Any]:
        with self._grant.still():
            done = workspace.checkpoint(message, label=label, creator=CREATOR, automatic=label is None)
        return {"snapshot": done.snapshot.id, "changed": done.changed}

    def _restore(self, workspace: WorkspaceHandle, ref: str = "") -> dict[str, Any]:
        target = _own(workspace, ref) or "@latest"
        with self._grant.around():
            done = workspace.restore(target)
        undo = None if done.undo is None else done.undo.id
        return {"snapshot": done.snapshot.id, "undo": undo, "changed": done.changed_inodes}

    def _log(self, workspace: WorkspaceHandle) -> list[dict[str, Any]]:
        return [_shape(each) for each in workspace.log()]

    def _diff(self, workspace: WorkspaceHandle, a: str = "@latest", b: str = "") -> dict[str, Any]:
        changes, more = workspace.first_changes(_own(workspace, a), _own(workspace, b) or None, CHANGES_MAX)
        pairs = ((each.change, each.path.decode(errors="backslashreplace")) for each in changes)
        shown = [{"change": change, "path": path} for change, path in pairs]
        return {"changes": shown, "more": more}

    def _fork(self, workspace: WorkspaceHandle, name: str = "", ref: str = "") -> dict[str, Any]:
        with self._lock:
            if self._forks >= self._grant.forks:
                raise Conflict(f"{self._grant.forks} forks were made from inside, which is all the host allows")
            self._forks += 1
        full = f"{self._name}-{name}" if name else ""
        if not full:
            raise Invalid("a fork needs a name")
        ref = _own(workspace, ref)
        with self._grant.still() if not ref else nullcontext():
            self._store.fork(self._name + ref if ref.startswith("@") else ref or self._name, full)
        return {"workspace": full}


def _own(workspace: WorkspaceHandle, ref: str) -> str:
    """``ref``, if it is of this workspace: an id could name anybody's snapshot. Raises Invalid."""
    if ref.startswith("snap-") and not any(each.id == ref for each in workspace.log()):
        raise Invalid(f"{ref} is no snapshot of this workspace")
    return ref


def _shape(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id, "message": snapshot.message, "labels": list(snapshot.labels),
        "created_at": snapshot.created_at, "automatic": snapshot.automatic, "creator": snapshot.creator,
    }  # fmt: skip


class Served:
    """The socket at ``path``, which must not exist; :meth:`close` ends it. Raises OSError."""

    def __init__(self, agent: Agent, path: str, grant: Grant) -> None:
        self._agent = agent
        self._grant = grant
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(path)
        # Its folder's parent is closed (folder.make): who may open it is who is shown it, whatever user that is inside.
        os.chmod(path, 0o666)
        self._inode = os.stat(path).st_ino
        self._sock.listen(CONNECTIONS_MAX)
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._wake, self._woken = os.pipe()
        self._lock = threading.Lock()  # for the two below
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="cowfs-agent", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._sock, selectors.EVENT_READ)
            ready.register(self._wake, selectors.EVENT_READ)
            while True:
                if any(key.fd == self._wake for key, _ in ready.select()):
                    return
                self._free.acquire()
                with suppress(OSError):
                    connection, _ = self._sock.accept()
                    if self._begun(connection):
                        continue
                    connection.close()
                self._free.release()

    def _begun(self, connection: socket.socket) -> bool:
        """Serve a connection in a thread of its own; False when nobody is served any more."""
        with self._lock:
            if not self._closed:
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                thread.start()
                self._open[connection] = thread
            return not self._closed

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                if self._foreign(connection):
                    connection.settimeout(LINE_SECONDS)
                    connection.recv(protocol.REQUEST_BYTES)  # else the answer would be lost with it
                    connection.sendall(protocol.refused("conflict", "this socket is another user's"))
                    return
                for line in _lines(connection):
                    if self._closed:  # what had come before the connection was shut down can still be read
                        return
                    connection.sendall(self._agent.answer(line) if line is not None else _TOO_LONG)
                    if line is None:
                        return
        finally:
            with self._lock:
                self._open.pop(connection, None)
            self._free.release()

    def _foreign(self, connection: socket.socket) -> bool:
        if self._grant.uid is None:
            return False
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return bool(struct.unpack("3i", credentials)[1] != self._grant.uid)

    def close(self) -> None:
        """Take the capability back: when it returns, no request is being carried out, and none will be.

        Those that had begun are waited for: half done, they would take effect after whatever comes next.
        """
        with suppress(OSError):
            found = os.lstat(self._path)
            if stat.S_ISSOCK(found.st_mode) and found.st_ino == self._inode:
                os.unlink(self._path)
        with self._lock:
            self._closed = True
            serving = list(self._open.values())
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        os.write(self._woken, b"x")
        for thread in (self._thread, *serving):
            thread.join()
        self._sock.close()
        os.close(self._wake)
        os.close(self._woken)


_TOO_LONG = protocol.refused("invalid", f"a request has at most {protocol.REQUEST_BYTES} bytes")


def _lines(connection: socket.socket) -> Iterator[bytes | None]:
    """Lines as they come; None: one that is too long. Ends when the other side does, or is slow."""
    data = b""
    while True:
        connection.settimeout(LINE_SECONDS if data else IDLE_SECONDS)
        line, newline, rest = data.partition(b"\n")
        if newline:
            data = rest
            connection.settimeout(LINE_SECONDS)
            yield line
            continue
        if len(data) >= protocol.REQUEST_BYTES:
            yield None
            return
        piece = connection.recv(protocol.REQUEST_BYTES - len(data))
        if not piece:
            return
        data += piece


@contextmanager
def serving(store: Store, name: str, path: str, grant: Grant) -> Iterator[None]:
    """The capability for the workspace ``name`` at ``path``, until the end of the context."""
    served = Served(Agent(store, name, grant), path, grant)
    try:
        yield
    finally:
        served.close()
