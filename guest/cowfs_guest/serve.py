"""``cowfs-guest serve``: what runs inside of a virtual machine and does what its host asks.

The host is whoever is at the other end of a virtio-serial port, or connects by vsock from the machine below (and from
nowhere else: who may talk to this may run programs as root). Everything it needs is loaded at the start, and it logs
nothing: while its filesystems are frozen it must not wait for them.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import termios
import threading
import tty
from contextlib import suppress

from cowfs_guest import SOCKET, Refused
from cowfs_guest.agents import AgentSocket
from cowfs_guest.conversation import Conversation
from cowfs_guest.freezing import Freezer
from cowfs_guest.wire import Link

HOST_CID = 2
HOSTS_MAX = 8
"""Connections by vsock at a time."""

AGAIN_SECONDS = 0.2
"""Between two looks at a port that no host has opened, or that is not there yet."""


class Server:
    """What all conversations share: ``roots``, the mount points of the filesystems to freeze, sync and trim;
    ``freezer``; and the socket for programs inside, at ``agent_socket`` (empty: none). Raises OSError."""

    def __init__(self, roots: list[str], agent_socket: str = SOCKET) -> None:
        self.roots = roots
        self.freezer = Freezer(roots)
        self._hosts: list[Conversation] = []
        self._lock = threading.Lock()
        self._agents = AgentSocket(agent_socket, self._ask) if agent_socket else None

    def close(self) -> None:
        """Thaw what is frozen, and take the socket away."""
        self.freezer.close()
        if self._agents is not None:
            self._agents.close()

    def _ask(self, line: str) -> str:
        with self._lock:
            host = next((each for each in self._hosts if each.answers), None)
        if host is None:
            raise Refused("busy", "nobody answers on the host", "There: cowfs guest SOCKET serve WS")
        return host.ask(line)

    def converse(self, link: Link, *, announce: bool = False) -> None:
        """Serve one host until the stream ends."""
        conversation = Conversation(self, link)
        with self._lock:
            self._hosts.append(conversation)
        if announce:
            threading.Thread(target=conversation.announce, daemon=True).start()
        try:
            conversation.serve()
        finally:
            with self._lock:
                self._hosts.remove(conversation)

    def port(self, path: str) -> None:
        """Serve a port for ever: hosts come and go."""
        again = threading.Event()
        while True:
            with suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
                try:
                    if os.isatty(fd):
                        tty.setraw(fd, termios.TCSANOW)  # what the host has said already stays
                    self._hosts_of(Link(fd), again)
                finally:
                    os.close(fd)
            again.wait(AGAIN_SECONDS)

    def _hosts_of(self, link: Link, again: threading.Event) -> None:
        """One after the other, as long as the port is there: while no host has it open, it reads as ended."""
        self.converse(link, announce=True)
        while not link.failed:
            again.wait(AGAIN_SECONDS)
            self.converse(link)

    def vsock(self, port: int) -> None:
        """Serve the host's connections for ever. Raises OSError."""
        free = threading.BoundedSemaphore(HOSTS_MAX)

        def serve(connection: socket.socket) -> None:
            with connection:
                self.converse(Link(connection.fileno()))
            free.release()

        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((socket.VMADDR_CID_ANY, port))
            sock.listen(HOSTS_MAX)
            while True:
                free.acquire()
                connection, (cid, _) = sock.accept()
                if cid != HOST_CID:  # a program inside, by the loopback
                    connection.close()
                    free.release()
                else:
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main(port: str, vsock: int | None, fd: int | None, roots: list[str], agent_socket: str) -> int:
    """Serve until SIGTERM, SIGINT, or the end of ``fd``; the exit code."""
    sys.dont_write_bytecode = True
    # A handler alone would be run only when the main thread next comes out of a system call that it is in.
    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _, __: None)
    try:
        server = Server(roots or ["/"], agent_socket)
    except OSError as error:
        print(f"cowfs-guest: no socket at {agent_socket}: {error.strerror}", file=sys.stderr)
        return 1
    failed: list[OSError] = []

    def serve() -> None:
        try:
            if fd is not None:
                server.converse(Link(fd))
            elif vsock is not None:
                server.vsock(vsock)
            else:
                server.port(port)
        except OSError as error:
            failed.append(error)
        os.write(end, b"x")

    threading.Thread(target=serve, name="cowfs-serve", daemon=True).start()
    os.read(ended, 1)
    server.close()
    for each in failed:
        print(f"cowfs-guest: {each} (is there such a device?)", file=sys.stderr)
    return 1 if failed else 0
