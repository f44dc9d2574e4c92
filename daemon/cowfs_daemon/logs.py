"""The daemon's log: one JSON object a line in ``STORE/daemon/log``, written by every process of the daemon.

Each line is one ``write(2)`` to a file opened for appending, so lines of several processes never mix. The file that
is full (:data:`LIMIT_BYTES`) becomes ``log.1``, that one ``log.2``, and so on up to :data:`KEPT`: whoever finds it
full does that, under a lock, and everybody else notices by the inode of the name and goes on in the new file, with
standard output and error too. What comes there by itself (a traceback of the interpreter) is no JSON.

A daemon in the foreground (``cowfs daemon run``) logs to its standard error, as text for people or a service manager,
unless ``COWFS_LOG_FORMAT`` says ``json``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from typing import Final

from cowfs.client.place import LOG_NAME, daemon_dir

LIMIT_BYTES: Final = 4 << 20
KEPT: Final = 3
"""Full files that are kept beside the one that is written: with it, 16 MiB at most."""

FORMAT_VARIABLE: Final = "COWFS_LOG_FORMAT"
MESSAGE_MAX: Final = 16_384
"""Characters of a message or traceback; what is longer is cut."""

TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339 UTC), ``level``, ``process`` (its role), ``pid``, ``logger``, ``event``, and where there is
    one ``workspace`` and ``traceback``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds, rest = divmod(int(record.created * 1e6), 1_000_000)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "event": record.getMessage()[:MESSAGE_MAX],
        }
        workspace = getattr(record, "workspace", None)
        if workspace is not None:
            line["workspace"] = workspace
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))[-MESSAGE_MAX:]
        return json.dumps(line)


class SharedFile(logging.Handler):
    """Appends to a log that other processes append to, too. ``limit_bytes``: when it is full."""

    def __init__(self, path: str, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__()
        self._path = path
        self._limit = limit_bytes
        self._fd = open_log(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A full disk loses it."""
        with suppress(OSError, ValueError):
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
            self._follow()
            if os.fstat(self._fd).st_size + len(line) > self._limit:
                rotate(self._path, self._limit - len(line))
                self._follow()
            os.write(self._fd, line)

    def _follow(self) -> None:
        """Write where the name leads, with everything that led to the same file before."""
        mine = os.fstat(self._fd)
        with suppress(FileNotFoundError):
            if os.path.samestat(mine, os.stat(self._path)):
                return
        fd = open_log(self._path)
        for standard in (1, 2):
            if os.path.samestat(mine, os.fstat(standard)):
                os.dup2(fd, standard)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Let go of the file."""
        super().close()
        with suppress(OSError):
            os.close(self._fd)


def open_log(path: str) -> int:
    """A descriptor for appending; mode 0600."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def rotate(path: str, limit_bytes: int) -> None:
    """Put a log of more than ``limit_bytes`` aside, if it still is the one at ``path``. Raises OSError."""
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.stat(path).st_size <= limit_bytes:
                return  # another process has done it
        except FileNotFoundError:
            return  # and nobody has written since
        for number in range(KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.rename(f"{path}.{number}", f"{path}.{number + 1}")
        os.rename(path, f"{path}.1")
    finally:
        os.close(lock)


def set_up(process: str, store: str) -> None:
    """Log from here on, in the role ``process``: into the store's log when standard error leads there."""
    path = os.path.join(daemon_dir(store), LOG_NAME)
    handler: logging.Handler
    if _leads_to(path):
        handler = SharedFile(path)
        chosen = os.environ.get(FORMAT_VARIABLE, "json")
    else:
        handler = logging.StreamHandler(sys.stderr)
        chosen = os.environ.get(FORMAT_VARIABLE, "text")
    handler.setFormatter(logging.Formatter(TEXT) if chosen == "text" else JsonFormatter(process))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)


def _leads_to(path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(2), os.stat(path))
    except OSError:
        return False
