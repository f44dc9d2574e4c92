"""Messages over a stream socket between owner and worker: a length (4 bytes, big endian), then ``codec`` text.

Requests ``(number, call, arguments)`` go one way; answers ``(number, result, error)`` the other, in any order.
"""

import os
import select
import socket
import struct
import threading
from typing import Any

from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs_daemon.codec import decode, encode
from cowfs_daemon.ports import WorkerGone

PROTOCOL = 1
"""Of the messages between owner and worker; a worker says it first, and an owner of another one refuses it."""

PULSE = "pulse"
"""The call that asks how a worker is; see cowfs_daemon.pulse."""

MAX_MESSAGE_BYTES = 256 << 20
_LENGTH = struct.Struct(">I")
_GONE = "worker_gone"  # between owner and worker only: to everyone else it is Busy
_KINDS: dict[str, type[CowfsError]] = {
    kind.code: kind for kind in (CowfsError, Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)
}


class Channel:
    """One end. ``send`` may be called by any thread; ``receive`` by one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb", buffering=1 << 16)
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Raises OSError when the other end is gone."""
        data = encode(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise Invalid(f"a message of {len(data)} bytes between owner and worker")
        with self._lock:
            self._sock.sendall(_LENGTH.pack(len(data)) + data)

    def try_send(self, message: object) -> bool:
        """Send a small message if that needs no waiting; whether it was sent. Raises OSError as :meth:`send`."""
        data = encode(message)
        if not self._lock.acquire(blocking=False):
            return False
        try:
            poller = select.poll()
            poller.register(self._sock, select.POLLOUT)
            if not poller.poll(0):
                return False
            self._sock.sendall(_LENGTH.pack(len(data)) + data)
            return True
        finally:
            self._lock.release()

    def receive(self) -> Any:
        """The next message; None when the other end is gone. Raises Corrupt for a malformed one."""
        try:
            head = self._reader.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (size,) = _LENGTH.unpack(head)
            if size > MAX_MESSAGE_BYTES:
                raise Corrupt(f"a message of {size} bytes between owner and worker")
            data = self._reader.read(size)
        except OSError:
            return None
        return decode(data) if len(data) == size else None

    def shut(self) -> None:
        """Tell the other end that nothing more comes, and wake a ``receive`` of our own."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Release the socket."""
        self._reader.close()
        self._sock.close()


def pack_error(error: BaseException) -> tuple[str, str, str, int]:
    """(code, message, hint, errno) of an error; errno is 0 unless it is an OSError."""
    if isinstance(error, WorkerGone):
        return (_GONE, error.message, error.hint, 0)
    if isinstance(error, CowfsError):
        return (error.code, error.message, error.hint, 0)
    if isinstance(error, OSError) and error.errno:
        return ("os", error.strerror or "", "", error.errno)
    return ("internal", f"{type(error).__name__}: {error}", "", 0)


def unpack_error(packed: tuple[str, str, str, int]) -> Exception:
    """The error that ``pack_error`` was given."""
    code, message, hint, number = packed
    if number:
        return OSError(number, os.strerror(number))
    if code == _GONE:
        return WorkerGone(message, hint=hint)
    return _KINDS.get(code, CowfsError)(message, hint=hint)
