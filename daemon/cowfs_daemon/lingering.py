"""Killed processes that cannot end yet, since a thread of theirs waits for the mount that they themselves served.

The kernel lets a thread go that waits for an answer of FUSE as long as nobody has read its request; after that, and
while it waits for pages to be written, it goes only once that is answered, SIGKILL or not (``request_wait_answer`` in
fs/fuse/dev.c, ``folio_wait_writeback``). A worker that opens or flushes a file of its own mount, for a checkpoint or a
restore, may be killed just then, and while the keeper holds the connection nobody answers: the process stays, with its
descriptors, until a successor serves the mount. The successor must therefore not wait for its end. It need not: a
thread on which SIGKILL is pending returns to no program, so what it is doing in the kernel is the last thing it does.
Where that writes nothing but notifications, journals are safe from it.

So with the process that lists directories for a worker (fuse/listing.py), which is killed with it.

Standard library only: the keeper uses it.
"""

import os
import platform
import signal
import time
from collections.abc import Callable
from typing import Final

_NAMES = (
    "read", "write", "openat", "open_by_handle_at", "sync_file_range", "fstat", "newfstatat", "statx", "statfs",
    "getdents64",
)  # fmt: skip
_NUMBERS: Final = {
    "x86_64": (0, 1, 257, 304, 277, 5, 262, 332, 137, 217),
    "aarch64": (63, 64, 56, 265, 84, 80, 79, 291, 43, 61),
}
"""Of the system calls by which a thread may wait for a mount; arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h."""

_CALLS: Final = dict(zip(_NUMBERS.get(platform.machine(), ()), _NAMES, strict=False))
_CHANGING = os.O_CREAT | os.O_TRUNC
GRACE_SECONDS = 0.2
"""For how long every thread must have waited in such a call."""

_POLL_SECONDS = 0.01


def main_thread_ended(pid: int) -> bool:
    """Whether the first thread of a process has ended, or all of it: it is ending then.

    A pidfd, also one of that thread, tells of it only when all threads have ended (tried on Linux 6.18).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"ZX"
    except OSError:
        return True


def wait_harmless(pid: int, ended: Callable[[], bool]) -> bool:
    """Kill a process, and return when it has ended (True) or can do no more harm (False).

    ``ended()`` tells, by reaping it.
    """
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    since = None
    while not ended():
        now = time.monotonic()
        if not harmless(pid):
            since = None
        elif since is None:
            since = now
        elif now - since >= GRACE_SECONDS:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def harmless(pid: int) -> bool:
    """Whether SIGKILL is pending on a process, or it is ending, and every thread left waits in a call that writes to no
    file. On other architectures than those known here, and without the right to look, the answer is no."""
    try:
        if not main_thread_ended(pid):
            return False
        tasks = [task for task in os.listdir(f"/proc/{pid}/task") if task != str(pid)]
        return bool(tasks) and all(_waits(f"/proc/{pid}/task/{task}") for task in tasks)
    except OSError:  # a thread has ended meanwhile
        return False


def _waits(task: str) -> bool:
    with open(f"{task}/syscall") as file:
        number, *arguments = file.read().split()
    if not number.isdecimal():  # it runs
        return False
    call = _CALLS.get(int(number))
    if call == "write":
        return os.readlink(f"{task}/fd/{int(arguments[0], 16)}") == "/dev/fuse"
    if call == "openat":
        return not int(arguments[2], 16) & _CHANGING
    return call is not None
