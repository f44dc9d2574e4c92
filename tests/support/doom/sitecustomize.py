"""Loaded by every Python process of a daemon under test: lets it kill itself at a chosen call.

COWFS_TEST_DOOM names a file. While it exists and holds ``ROLE NUMBER``, the processes of that role (supervise, worker)
count before and after each call that changes a file, from the file's appearance on; at that number the file is removed
and the process kills itself.
"""

import os
import signal
import stat
import threading

_DOOM = os.environ.get("COWFS_TEST_DOOM", "")
_BY_PATH = ("rename", "replace", "unlink", "mkdir", "rmdir", "truncate")
_BY_DESCRIPTOR = ("write", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate")
_lock = threading.Lock()
_state = {"armed": 0, "passed": 0}


def _point(role: str) -> None:
    try:
        found = os.stat(_DOOM)
        with open(_DOOM) as file:
            chosen, number = file.read().split()
    except (OSError, ValueError):
        return
    if chosen != role:
        return
    with _lock:
        if _state["armed"] != found.st_mtime_ns:
            _state.update(armed=found.st_mtime_ns, passed=0)
        _state["passed"] += 1
        if _state["passed"] == int(number):
            _unlink(_DOOM)
            os.kill(os.getpid(), signal.SIGKILL)


_unlink = os.unlink


def _arm(role: str) -> None:
    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **named: object) -> object:
            if name in _BY_DESCRIPTOR and not stat.S_ISREG(os.fstat(args[0]).st_mode):  # type: ignore[arg-type]
                return real(*args, **named)
            _point(role)
            result = real(*args, **named)
            _point(role)
            return result

        setattr(os, name, call)

    for name in (*_BY_PATH, *_BY_DESCRIPTOR):
        wrap(name)


if _DOOM:
    with open("/proc/self/cmdline", "rb") as _file:
        _words = _file.read().decode(errors="replace").split("\0")
    if "supervise" in _words:
        _arm("supervise")
    elif "cowfs_daemon.worker" in _words:
        _arm("worker")
