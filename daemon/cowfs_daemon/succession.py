"""How a keeper goes on as another program: the installed code, in the same process, with every descriptor.

The process executes ``cowfs_daemon run --resume FD``; FD is a memory file that says what is kept. Children, locks and
mounts stay. Before that the installed code is asked, in a child, whether it understands this keeper. Standard library
only.
"""

import contextlib
import json
import os
import select
import signal
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

from cowfs.errors import Conflict, Invalid
from cowfs_daemon.packets import PROTOCOL

CHECK_SECONDS = 30.0
_ANSWER_BYTES = 4096
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a keeper leaves: descriptors, and what it knows. ``kept``: key, fields and descriptor of each mount."""

    protocol: int
    store: str
    lock: int
    ours: int
    theirs: int
    supervisor: int
    workers: int | None
    as_json: bool
    answered: bool
    notify: str
    kept: list[tuple[str, Any, int]]


def installed() -> dict[str, Any]:
    """What the installed code says of itself: ``version``, ``keepers`` (the protocols that it can go on from).

    Raises Conflict when it cannot even be started.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    words = [sys.executable, "-P", "-m", "cowfs_daemon", "version"]
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 1)]
    child = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsigdef=_SIGNALS)
    os.close(theirs)
    watched = os.pidfd_open(child)
    try:
        if not select.select([watched], [], [], CHECK_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said = os.read(ours, _ANSWER_BYTES)
        value = json.loads(said) if status == 0 else None
        if isinstance(value, dict) and isinstance(value.get("keepers"), list):
            return value
    except ValueError:
        pass
    finally:
        os.close(watched)
        os.close(ours)
    raise Conflict("the installed code does not start", hint="install cowfs again; what runs goes on as it is")


def check_installed(protocol: int = PROTOCOL) -> dict[str, Any]:
    """:func:`installed`. Raises Conflict when it cannot go on from a keeper that speaks ``protocol``."""
    found = installed()
    if protocol not in found["keepers"]:
        raise Conflict(
            f"the installed cowfs {found.get('version')} cannot go on from the keeper that runs (protocol {protocol})",
            hint="cowfs daemon stop; the next command starts the installed one",
        )
    return found


def become_installed(legacy: Legacy) -> None:
    """Execute the installed code; does not return, except by OSError."""
    memory = os.memfd_create("cowfs-keeper", 0)
    descriptors = [memory, legacy.lock, legacy.ours, legacy.theirs, *(fd for _, _, fd in legacy.kept)]
    try:
        os.write(memory, json.dumps(asdict(legacy)).encode())
        for fd in descriptors:
            os.set_inheritable(fd, True)
        # A signal that comes before the new program has its handlers must wait for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        words = [sys.executable, "-P", "-m", "cowfs_daemon", "run", "--store", legacy.store, "--resume", str(memory)]
        os.execve(sys.executable, words, os.environ)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for fd in descriptors:
            os.set_inheritable(fd, False)
        os.close(memory)


def take_legacy(memory: int) -> Legacy:
    """What the program that this process was before has left. Raises Invalid when it makes no sense."""
    try:
        value = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        legacy = Legacy(**{field.name: value[field.name] for field in fields(Legacy)})
        if legacy.protocol != PROTOCOL:
            raise ValueError(f"protocol {legacy.protocol}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"what the last keeper left cannot be read: {error}") from error
    os.close(memory)
    for fd in (legacy.lock, legacy.ours, legacy.theirs, *(fd for _, _, fd in legacy.kept)):
        os.set_inheritable(fd, False)
    return legacy


def unblock_signals() -> None:
    """The handlers are there: let signals come."""
    with contextlib.suppress(OSError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
