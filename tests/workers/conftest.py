"""An owner with real workers in other processes, and a keeper's table in a thread of this one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowfs.engine import Engine
from cowfs_daemon import compose, remote
from cowfs_daemon.compose import Owner
from cowfs_daemon.packets import receive
from cowfs_daemon.remote import RemoteHost
from cowfs_daemon.supervised import Supervised
from cowfs_daemon.table import Table
from tests.cli.live import Live

DEADLINE_SECONDS = 60.0


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until ``holds()``; fails after a minute."""
    until = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < until, what
        threading.Event().wait(0.02)


class Owned:
    """``owner`` with ``workers`` worker processes at most."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.store = directory / "store"
        (self.store).mkdir()
        self.store.rmdir()
        Engine.create_store(self.store, time.time_ns, os.urandom(16))
        (self.store / "daemon").mkdir(mode=0o700, exist_ok=True)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeping = threading.Thread(target=self._keep)
        self._keeping.start()
        self.owner = Owner(str(self.store), Supervised(self._theirs.fileno()), workers)
        self.owner.wait_started()
        self.engine, self.mounts, self.pool = self.owner.engine, self.owner.mounts, self.owner.pool

    def _keep(self) -> None:
        table = Table()
        while True:
            message, descriptor = receive(self._ours)
            if message is None:
                return
            table.handle(message, descriptor)

    def make(self, name: str) -> Path:
        """A new mounted workspace; its path."""
        self.engine.create(name)
        return self.path(name)

    def path(self, name: str) -> Path:
        """Where a workspace is mounted, from now on if need be."""
        return Path(self.mounts.mount(name).path)

    def worker_of(self, name: str) -> RemoteHost:
        """Who serves a workspace."""
        ident = self.engine.workspace(name).id
        (found,) = [worker for worker in self.pool.workers if worker.is_open(ident)]
        return found

    def two_workers(self) -> tuple[RemoteHost, RemoteHost]:
        """Both workers, once both are up."""
        self.pool.grow()
        eventually(lambda: all(worker.started for worker in self.pool.workers), "a second worker")
        first, second, *_ = self.pool.workers
        return first, second

    def kill(self, worker: RemoteHost) -> None:
        """Kill a worker, and wait until there is another in its place."""
        old = worker.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        eventually(lambda: worker.started and worker.pid != old, "another worker")

    def move(self, name: str, target: RemoteHost) -> bool:
        """Let ``target`` serve a workspace."""
        return self.owner.serving.move(self.engine.workspace(name).id, target, lambda _: None)

    def close(self) -> None:
        """End everything, and check what is left."""
        try:
            self.mounts.detach_all(force=True)
            self.engine.settle()
            problems = list(self.engine.fsck(deep=True))
        finally:
            self.owner.close()
            self._ours.shutdown(socket.SHUT_RDWR)
            self._keeping.join()
            self._theirs.close()
            self._ours.close()
        assert problems == []


@contextlib.contextmanager
def other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, told_by: str, workers: int
) -> Iterator[tuple[Owned, Path]]:
    """An owner whose workers are ``tests.workers.MODULE``, and the file, named by ``told_by``, that tells them what to
    do."""
    told = tmp_path / "told"
    monkeypatch.setenv(told_by, str(told))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setattr(remote.WorkerProcess, "MODULE", f"tests.workers.{module}")
    monkeypatch.setattr(compose, "PAUSE_MAX_SECONDS", 0.05)
    owned = Owned(tmp_path, workers)
    try:
        yield owned, told
    finally:
        told.unlink(missing_ok=True)
        owned.close()


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owned]:
    owned = Owned(tmp_path, 2)
    try:
        yield owned
    finally:
        owned.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path / "s")
    live.cowfs("init")
    live.cowfs("daemon", "start", "--workers", "2")
    yield live
    live.end()
    assert live.cowfs("fsck") == "clean"
    assert live.mounts() == []
    assert "Traceback" not in live.log()


class Writer:
    """A program that appends numbered lines to a file that it holds open, makes, renames and removes others, and
    verifies all of it after every step. ``end`` gives the number of steps."""

    SOURCE = """
import os, sys, select
os.makedirs("work", exist_ok=True)
log = os.open("work/log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
steps, expected = 0, b""
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    line = b"%08d\\n" % steps
    assert os.write(log, line) == len(line)
    expected += line
    assert os.pread(log, len(line), len(expected) - len(line)) == line
    new, moved = f"work/new-{steps}", f"work/moved-{steps}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, expected[-4096:])
    os.close(fd)
    os.rename(new, moved)
    assert not os.path.exists(new)
    with open(moved, "rb") as file:
        assert file.read() == expected[-4096:]
    if steps >= 20:
        os.unlink(f"work/moved-{steps - 20}")
    os.mkdir(f"work/d-{steps}")
    os.rmdir(f"work/d-{steps}")
    steps += 1
assert os.pread(log, len(expected) + 1, 0) == expected
names = sorted(os.listdir("work"))
assert names == sorted(["log", *(f"moved-{n}" for n in range(max(steps - 20, 0), steps))]), names
print(steps, flush=True)
"""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> int:
        """Stop it; how many steps it took, all of them right."""
        out, err = self.process.communicate("stop\n", timeout=DEADLINE_SECONDS)
        assert self.process.returncode == 0, err
        return int(out)


@pytest.fixture
def writers() -> Iterator[Callable[[Path], Writer]]:
    started: list[Writer] = []

    def start(directory: Path) -> Writer:
        started.append(Writer(directory))
        return started[-1]

    yield start
    for writer in started:
        if writer.process.poll() is None:
            writer.process.kill()
        with contextlib.suppress(ValueError):
            writer.process.communicate()
