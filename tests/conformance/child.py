"""Calls that another process makes."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_child(call: Callable[[], Any], meanwhile: Callable[[], None] = lambda: None) -> str:
    """What a call gives in another process: its result, errno or the signal that ended it.

    ``meanwhile`` is called here once the process runs.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        answer = ""
        try:
            answer = repr(call())
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        finally:
            os.write(write, answer.encode())
            os._exit(0)
    os.close(write)
    try:
        meanwhile()
    finally:
        said = os.read(read, 10_000).decode()
        os.close(read)
        _, status = os.waitpid(pid, 0)
    return said if os.WIFEXITED(status) else signal.Signals(os.WTERMSIG(status)).name


def await_waiter(path: str) -> None:
    """Return once a process waits for a lock of a file."""
    seen = os.stat(path)
    place = f" {os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino} "
    while not any(" -> " in line and place in line for line in Path("/proc/locks").read_text().splitlines()):
        threading.Event().wait(0.002)
