"""The settler process: ``python -m cowfs.settle OWNER-PID IDLE-SECONDS NICENESS``.

:mod:`cowfs.settle.process` starts it. It hashes and compresses away from the owner's interpreter lock, at low priority,
and may be killed at any instant: what it wrote is not in the index until its owner has taken it over. It ends when it
has been idle for long, when its owner closes the pipe, and with its owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

OOM_SCORE = 300
"""When memory runs out, a settler goes before what has memory of its own to lose: its job is just done again."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: list[str]) -> int:
    """Serve jobs from standard input until there are no more."""
    owner, idle_seconds, niceness = int(arguments[0]), float(arguments[1]), int(arguments[2])
    if not die_with(owner):
        return 1
    os.nice(niceness)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE))
    # The protocol has the pipes for itself: what anything else reads or prints cannot get into it.
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)

    from cowfs.settle.child import serve
    from cowfs.settle.protocol import Channel

    channel = Channel(read_fd, write_fd)
    try:
        serve(channel, idle_seconds)
    except BrokenPipeError:
        return 1
    finally:
        channel.close()
    return 0


def die_with(owner: int) -> bool:
    """Have the kernel kill this process when its owner dies; False if the owner is dead already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    return os.getppid() == owner


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
