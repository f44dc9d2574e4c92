"""Cases about locks: of whole files, of processes and of open descriptions; who asks, who waits, what lets go."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from itertools import product

from tests.conformance.case import Case
from tests.conformance.child import await_waiter, in_child
from tests.conformance.scene import Scene

KINDS = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK}
_GET_DESCRIPTION, _SET_DESCRIPTION, _WAIT_DESCRIPTION = 36, 37, 38
COMMANDS = {
    "process": (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW),
    "description": (_GET_DESCRIPTION, _SET_DESCRIPTION, _WAIT_DESCRIPTION),
}
"""To ask for a lock, to set it, to wait for it."""


def _prepare(scene: Scene) -> None:
    """The file is too long for its content to be recorded: closing what that opens would let go of the locks."""
    scene.directories()
    scene.make("d/x", "sparse", 0o666)


def _lock(kind: int, start: int, length: int) -> bytes:
    """A struct flock."""
    return struct.pack("hhqqi4x", kind, 0, start, length, 0)


def locking() -> Iterator[Case]:
    """flock, fcntl locks of processes and of descriptions: every pair, by descriptors of each kind."""
    flock = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}
    ways = {"rdonly": os.O_RDONLY, "wronly": os.O_WRONLY, "rdwr": os.O_RDWR}

    def whole(one: int, other: int, flags: tuple[int, int]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            a, b = scene.root_open("d/x", flags[0]), scene.root_open("d/x", flags[1])
            scene.do("first", fcntl.flock, a, one | fcntl.LOCK_NB)
            scene.do("second", fcntl.flock, b, other | fcntl.LOCK_NB)
            scene.do("unlock", fcntl.flock, a, fcntl.LOCK_UN)
            scene.do("second", fcntl.flock, b, other | fcntl.LOCK_NB)

        return run

    def ranges(one: int, other: int, flags: int, command: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", flags)
            scene.do("first", lambda: fcntl.fcntl(fd, command, _lock(one, 10, 10)) and None)

            def second(start: int) -> None:
                descriptor = os.open("d/x", os.O_RDWR)
                fcntl.fcntl(descriptor, command, _lock(other, start, 5))

            scene.do("over it", lambda: in_child(lambda: second(12)))
            scene.do("beside it", lambda: in_child(lambda: second(20)))
            scene.do("unlock", lambda: fcntl.fcntl(fd, command, _lock(fcntl.F_UNLCK, 0, 0)) and None)
            scene.do("over it", lambda: in_child(lambda: second(12)))

        return run

    for (one, a), (other, b), first, second in product(flock.items(), flock.items(), ways, ways):
        yield Case(f"flock/{one}/{other}/{first}/{second}", _prepare, whole(a, b, (ways[first], ways[second])))
    for (one, a), (other, b), flags, (name, commands) in product(KINDS.items(), KINDS.items(), ways, COMMANDS.items()):
        yield Case(f"lock/{name}/{one}/{other}/{flags}", _prepare, ranges(a, b, ways[flags], commands[1]))


def asking() -> Iterator[Case]:
    """F_GETLK: what it tells of the lock in the way, and that there is none."""

    def act(held: int, asked: int, get: int, command: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", os.O_RDWR)
            holder = os.getpid()

            def told(start: int) -> tuple[int | str, ...]:
                answer = fcntl.fcntl(os.open("d/x", os.O_RDWR), get, _lock(asked, start, 5))
                *place, pid = struct.unpack("hhqqi4x", answer)
                return (*place, "holder" if pid == holder else pid)

            scene.do("first", lambda: fcntl.fcntl(fd, command, _lock(held, 10, 10)) and None)
            scene.do("over it", lambda: in_child(lambda: told(12)))
            scene.do("beside it", lambda: in_child(lambda: told(20)))
            scene.do("by oneself", lambda: struct.unpack("hhqqi4x", fcntl.fcntl(fd, get, _lock(asked, 12, 5))))

        return run

    for (held, a), (asked, b), (name, (get, command, _)) in product(KINDS.items(), KINDS.items(), COMMANDS.items()):
        yield Case(f"lock-get/{name}/{held}/{asked}", _prepare, act(a, b, get, command))


def _ways() -> dict[str, tuple[Callable[[int], None], Callable[[int], None], Callable[[int], None]]]:
    """For each sort of lock: try to take it, wait for it, and let it go, by a descriptor."""

    def of_range(command: int, kind: int) -> Callable[[int], None]:
        def apply(fd: int) -> None:
            fcntl.fcntl(fd, command, _lock(kind, 10, 10))

        return apply

    def of_file(operation: int) -> Callable[[int], None]:
        return lambda fd: fcntl.flock(fd, operation)

    ways = {
        name: (of_range(once, fcntl.F_WRLCK), of_range(wait, fcntl.F_WRLCK), of_range(once, fcntl.F_UNLCK))
        for name, (_, once, wait) in COMMANDS.items()
    }
    return ways | {"flock": (of_file(fcntl.LOCK_EX | fcntl.LOCK_NB), of_file(fcntl.LOCK_EX), of_file(fcntl.LOCK_UN))}


def waiting() -> Iterator[Case]:
    """F_SETLKW and flock: who waits gets the lock once its holder lets go, and a circle of waiters is refused."""

    def waits(
        once: Callable[[int], None], wait: Callable[[int], None], end: Callable[[int], None]
    ) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", os.O_RDWR)

            def waiter() -> bytes:
                own = os.open("d/x", os.O_RDWR)
                wait(own)
                return os.pread(own, 6, 0)

            def let_go() -> None:
                await_waiter("d/x")
                os.pwrite(fd, b"let go", 0)
                end(fd)

            scene.do("first", once, fd)
            scene.do("wait", lambda: in_child(waiter, let_go))

        return run

    for name, calls in _ways().items():
        yield Case(f"lock-wait/{name}", _prepare, waits(*calls))

    def circle(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDWR)
        scene.do("first", lambda: fcntl.fcntl(fd, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 0, 10)) and None)

        def waiter() -> str:
            fcntl.fcntl(fd, fcntl.F_SETLK, _lock(fcntl.F_WRLCK, 10, 10))
            fcntl.fcntl(fd, fcntl.F_SETLKW, _lock(fcntl.F_WRLCK, 0, 10))
            return "has both"

        def close_the_circle() -> None:
            await_waiter("d/x")
            scene.do("wait in a circle", lambda: fcntl.fcntl(fd, fcntl.F_SETLKW, _lock(fcntl.F_WRLCK, 10, 10)) and None)
            fcntl.fcntl(fd, fcntl.F_SETLK, _lock(fcntl.F_UNLCK, 0, 10))

        scene.say("who waited", in_child(waiter, close_the_circle))

    yield Case("lock-circle", _prepare, circle)


def letting_go() -> Iterator[Case]:
    """What lets go of a lock without an unlock: closing this or another descriptor, and the end of its process."""

    def act(once: Callable[[int], None], closed: str) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", os.O_RDWR)
            others = {"last": fd, "copy": os.dup(fd), "another": scene.root_open("d/x", os.O_RDONLY)}
            scene.keep(others["copy"])
            if closed == "last":
                os.close(others["copy"])
            scene.do("first", once, fd)
            scene.do("held", lambda: in_child(lambda: once(os.open("d/x", os.O_RDWR))))
            scene.do("close", os.close, others[closed])
            scene.do("closed", lambda: in_child(lambda: once(os.open("d/x", os.O_RDWR))))

        return run

    def ended(once: Callable[[int], None]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", os.O_RDWR)
            scene.do("first", lambda: in_child(lambda: once(os.open("d/x", os.O_RDWR))))
            scene.do("ended", once, fd)

        return run

    for name, (once, _, _) in _ways().items():
        for closed in ("last", "copy", "another"):
            yield Case(f"lock-close/{name}/{closed}", _prepare, act(once, closed))
        yield Case(f"lock-end/{name}", _prepare, ended(once))


def all_cases() -> Iterator[Case]:
    """Everything here."""
    for cases in (locking, asking, waiting, letting_go):
        yield from cases()
