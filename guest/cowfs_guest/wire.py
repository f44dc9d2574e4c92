"""The byte stream between a virtual machine and its host: lines of JSON, bounded, in both directions.

A virtio-serial port has no connections, so either side may find the rest of what was meant for a predecessor: what is
no line of JSON, or too long, is dropped up to the next newline, and a sender begins with an empty line.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

REQUEST_BYTES = 64 * 1024
"""A line from the host, with its newline, at most."""

LINE_BYTES = 1 << 20
"""A line to the host at most."""


class Link:
    """The stream on the descriptor ``fd``, which stays the caller's. Any thread may send. ``failed``: reading gave an
    error, not only an end."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, True)
        self._fd = fd
        self._lock = threading.Lock()
        self.failed = False

    def messages(self) -> Iterator[dict[str, Any]]:
        """Objects as they come, until the stream ends."""
        data, skipping = b"", False
        while piece := self._read():
            *lines, data = (data + piece).split(b"\n")
            for line in lines:
                message = None if skipping or len(line) >= REQUEST_BYTES else _object(line)
                skipping = False
                if message is not None:
                    yield message
            if len(data) >= REQUEST_BYTES:
                data, skipping = b"", True

    def send(self, message: dict[str, Any], *, fresh: bool = False) -> None:
        """Write one line; ``fresh``: after an empty one, which ends what a predecessor left. Raises OSError."""
        data = memoryview(b"\n" * fresh + json.dumps(message).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, REQUEST_BYTES)
        except OSError:
            self.failed = True
            return b""


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
