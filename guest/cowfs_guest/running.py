"""Programs that the host has a virtual machine run, with their output sent as it comes.

What was sent and not acknowledged is at most a window; a program that writes more waits, as it would for a pipe, and
neither the memory here nor what else goes over the stream depends on it.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cowfs_guest import Refused

WINDOW_BYTES = 256 * 1024
FRAME_BYTES = 32 * 1024
TIMEOUT_SECONDS_MAX = 86_400.0

LEFT_OPEN_SECONDS = 0.2
LEFT_OPEN_BYTES = 2 * 65536
"""What a program leaves in its two pipes at most. Others that it started may go on holding them, or writing to them, so
after its end no more than this is taken, and no longer waited for."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "dumb",
}


class Run:
    """One program, started at once. Raises Refused when it cannot be. One thread calls :meth:`pump`; the other methods
    may be called by any."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str, stdin: str, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._window = WINDOW_BYTES
        self._cancelled = False
        self._lock = threading.Lock()
        self._program = _started(argv, env, cwd, stdin)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def acknowledge(self, count: int) -> None:
        """The host has taken ``count`` bytes."""
        with self._lock:
            self._window = min(self._window + count, WINDOW_BYTES)
            self._stir()

    def cancel(self) -> None:
        """Kill it, as soon as the pumping thread sees this."""
        with self._lock:
            self._cancelled = True
            self._stir()

    def _stir(self) -> None:
        """Wake the pumping thread; the lock is held."""
        if self._wake >= 0:
            with suppress(BlockingIOError):  # full of wakes already
                os.write(self._wake, b"x")

    def pump(self, send: Callable[[str, str], None]) -> dict[str, Any]:
        """Call ``send(stream, base64)`` for all output; the exit code at the end. Raises Refused when cancelled.

        What ``send`` raises ends the program, and is raised.
        """
        watched = os.pidfd_open(self._program.pid)
        try:
            return self._pump(watched, send)
        finally:
            self._kill()
            self._program.wait()
            assert self._program.stdout is not None
            assert self._program.stderr is not None
            self._program.stdout.close()
            self._program.stderr.close()
            os.close(watched)
            with self._lock:
                os.close(self._woken)
                os.close(self._wake)
                self._wake = -1

    def _pump(self, watched: int, send: Callable[[str, str], None]) -> dict[str, Any]:
        assert self._program.stdout is not None
        assert self._program.stderr is not None
        streams = {self._program.stdout.fileno(): "stdout", self._program.stderr.fileno(): "stderr"}
        timed_out = ended = False
        rest = LEFT_OPEN_BYTES
        while True:
            with self._lock:
                window, cancelled = self._window, self._cancelled
            if cancelled:
                raise Refused("conflict", "the program was stopped, as the host asked")
            if not ended and not timed_out and time.monotonic() >= self._deadline:
                timed_out = True
                self._kill()
            if ended:
                waiting = 0 if not streams else LEFT_OPEN_SECONDS if window > 0 else None
            else:
                waiting = None if timed_out else self._deadline - time.monotonic()
            ready = _ready([self._woken, *([] if ended else [watched]), *(streams if window > 0 else ())], waiting)
            if self._woken in ready:
                os.read(self._woken, 65536)
            for fd in ready & streams.keys():
                taken, window = self._forward(fd, streams, send)
                rest -= taken if ended else 0
                if window <= 0:
                    break
            if watched in ready:
                ended = True
            elif ended and (not streams or not ready or rest <= 0):
                code = self._program.wait()
                return {"exit_code": code if code >= 0 else 128 - code, "timed_out": timed_out}

    def _forward(self, fd: int, streams: dict[int, str], send: Callable[[str, str], None]) -> tuple[int, int]:
        """Send some output of ``fd``; how many bytes, and what is left of the window."""
        with self._lock:
            most = min(FRAME_BYTES, self._window)
        data = os.read(fd, most)
        if data:
            send(streams[fd], base64.b64encode(data).decode())
        else:
            del streams[fd]
        with self._lock:
            self._window -= len(data)
            return len(data), self._window

    def _kill(self) -> None:
        """Kill its whole group, if it has not been waited for: its number is its own until then."""
        if self._program.returncode is None:
            with suppress(OSError):
                os.killpg(self._program.pid, signal.SIGKILL)


def _ready(fds: list[int], seconds: float | None) -> set[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if seconds is None else max(seconds * 1000, 0))}


def _started(argv: list[str], env: dict[str, str], cwd: str, stdin: str) -> subprocess.Popen[bytes]:
    given = os.memfd_create("cowfs-stdin", os.MFD_CLOEXEC)
    try:
        with open(given, "wb", closefd=False) as file:
            file.write(stdin.encode())
        os.lseek(given, 0, os.SEEK_SET)
        return subprocess.Popen(
            argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env={**ENVIRONMENT, **env},
            start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Refused("not_found", f"there is no {error.filename}") from None
    except (OSError, ValueError) as error:
        raise Refused("invalid", f"{argv[0]} cannot be started: {error}") from None
    finally:
        os.close(given)
