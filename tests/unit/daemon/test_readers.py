"""Where no thread, descriptor or memory is left for a reader: mounts wait, nothing is used up, and then it goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from cowfs_daemon.fuse import server as serving
from cowfs_daemon.fuse.server import Reader, Server
from tests.fuse.conftest import wait_until


class Pipe:
    """A mount whose requests are the bytes of a pipe."""

    def __init__(self) -> None:
        self.fd, self.sender = os.pipe()
        self.answered = 0
        self.hold = threading.Event()
        self.hold.set()

    def ask(self) -> None:
        os.write(self.sender, b"x")

    def serve(self, reader: Reader) -> bool:
        os.read(self.fd, 1)
        self.hold.wait()
        self.answered += 1
        return True


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def pipe(server: Server) -> Iterator[Callable[[], Pipe]]:
    made: list[Pipe] = []

    def add() -> Pipe:
        made.append(Pipe())
        server.add(made[-1])
        return made[-1]

    yield add
    for each in made:
        server.remove(each)
        os.close(each.fd)
        os.close(each.sender)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), OSError(24, "too many")])
def test_a_reader_that_cannot_be_started(
    server: Server, pipe: Callable[[], Pipe], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    other, mount = pipe(), pipe()
    other.ask()
    wait_until(lambda: other.answered == 1 and server.statistics().idle == 2)  # its reader is free now
    other.hold.clear()
    other.ask()
    wait_until(lambda: server.statistics().idle == 1)
    before, tries = descriptors(), 0

    def fail(_: Reader) -> None:
        nonlocal tries
        tries += 1
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(serving.Reader, "start", fail)
        mount.ask()
        wait_until(lambda: tries >= 3)
        assert descriptors() <= before
        answered = other.answered
        other.hold.set()  # a reader is free again: it serves both
        wait_until(lambda: other.answered > answered and mount.answered == 1)
    mount.ask()
    wait_until(lambda: mount.answered == 2)


def test_a_reader_for_which_there_is_no_descriptor(
    server: Server, pipe: Callable[[], Pipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, tries = pipe(), 0

    def fail(*_: int) -> int:
        nonlocal tries
        tries += 1
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", fail)
        mount.ask()
        wait_until(lambda: tries >= 3)
    wait_until(lambda: mount.answered == 1)
