"""Where no thread, descriptor or memory is left for a reader: mounts wait, nothing is used up, and then it goes on."""

from __future__ import annotations

import os
import select
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


class Asking(Pipe):
    """Says whether its reader was told to wake up before anybody could mean this mount."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[bool] = []
        self.readers: set[Reader] = set()

    def serve(self, reader: Reader) -> bool:
        self.readers.add(reader)
        self.woken.append(bool(select.select([reader.wake], [], [], 0)[0]))
        return super().serve(reader)


def test_a_reader_does_not_take_a_wake_up_to_the_next_mount(server: Server) -> None:
    """Who stops a mount wakes its reader, which need not be asleep: it would never sleep again."""
    one, other = Asking(), Asking()
    try:
        server.add(one)
        server.add(other)
        one.hold.clear()
        one.ask()
        wait_until(lambda: len(one.readers) == 1)
        (reader,) = one.readers
        removing = threading.Thread(target=server.remove, args=(one,))
        removing.start()
        wait_until(lambda: bool(select.select([reader.wake], [], [], 0)[0]))
        one.hold.set()
        removing.join()
        other.ask()
        wait_until(lambda: other.answered == 1)
        assert (other.readers, other.woken) == ({reader}, [False])
    finally:
        server.remove(other)
        for each in (one, other):
            os.close(each.fd)
            os.close(each.sender)
