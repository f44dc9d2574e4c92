"""A virtual machine's serial port without the machine: a terminal inside, a Unix socket outside, as QEMU has it.

One program at a time is connected; what the inside says while nobody is, is lost. Only the wire is this module's; what
talks at both ends is real.
"""

from __future__ import annotations

import os
import pty
import selectors
import socket
import threading
import tty
from contextlib import suppress
from pathlib import Path


class SerialPort:
    """``inside`` is the path of the terminal; ``path`` the socket."""

    def __init__(self, path: Path) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)  # nothing is echoed before the server is there, too
        self.inside = os.ttyname(self._slave)
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen(4)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def _relay(self) -> None:
        client: socket.socket | None = None
        with selectors.DefaultSelector() as ready:
            for each in (self._woken, self._sock, self._master):
                ready.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is self._woken:
                        if client is not None:
                            client.close()
                        return
                    if key.fileobj is self._sock:
                        client, _ = self._sock.accept()
                        ready.unregister(self._sock)
                        ready.register(client, selectors.EVENT_READ)
                    elif key.fileobj == self._master:
                        data = os.read(self._master, 65536)
                        if client is not None:
                            with suppress(OSError):
                                client.sendall(data)
                    elif client is not None and not self._pass_in(client):
                        ready.unregister(client)
                        client.close()
                        client = None
                        ready.register(self._sock, selectors.EVENT_READ)

    def _pass_in(self, client: socket.socket) -> bool:
        try:
            data = client.recv(1024)
        except OSError:
            return False
        left = memoryview(data)
        while left:
            left = left[os.write(self._master, left) :]
        return bool(data)

    def close(self) -> None:
        """End both sides."""
        self._wake.send(b"x")
        self._thread.join()
        for fd in (self._master, self._slave):
            os.close(fd)
        for sock in (self._sock, self._wake, self._woken):
            sock.close()
