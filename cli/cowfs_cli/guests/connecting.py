"""How a host reaches a guest: a Unix socket that leads to a virtio-serial port (QEMU), or to vsock (Firecracker)."""

from __future__ import annotations

import os
import socket
import time

from cowfs.errors import Busy, CowfsError, Invalid, NotFound

_REPLY_BYTES = 32


def connected(path: str, vsock_port: int | None, seconds: float) -> socket.socket:
    """The stream behind the Unix socket ``path``; with ``vsock_port`` it is Firecracker's, which wants
    ``CONNECT PORT`` first. Raises NotFound, Busy, Invalid."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
        if vsock_port is not None:
            _ask(sock, vsock_port, seconds)
        sock.settimeout(None)
    except BaseException as error:
        sock.close()
        if isinstance(error, CowfsError) or not isinstance(error, Exception):
            raise
        raise _meaning(error, path) from error
    return sock


def _meaning(error: Exception, path: str) -> CowfsError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"there is no socket {path}", hint="Is the virtual machine running?")
    if isinstance(error, ConnectionRefusedError):
        return NotFound(f"nobody listens at {path}", hint="Is the virtual machine running?")
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return Busy(f"{path} takes no connection", hint="Another program may be using the channel.")
    return Invalid(f"{path}: {os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error}")


def _ask(sock: socket.socket, port: int, seconds: float) -> None:
    """Firecracker answers ``OK PORT``, or hangs up when nobody listens inside."""
    sock.sendall(f"CONNECT {port}\n".encode())
    until = time.monotonic() + seconds
    reply = b""
    while not reply.endswith(b"\n") and len(reply) < _REPLY_BYTES:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        piece = sock.recv(1)  # what follows the newline is the guest's
        if not piece:
            raise Busy(f"nobody listens to port {port} inside", hint="Inside: cowfs-guest serve --vsock PORT")
        reply += piece
    if not reply.startswith(b"OK "):
        raise Invalid("the socket does not speak Firecracker's vsock protocol", hint="QEMU: leave --vsock out.")
