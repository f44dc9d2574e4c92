"""What outlives the daemon's processes and code: restart, upgrade, a service manager, and what doctor takes away."""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.live import Live
from tests.cli.test_session import Program, live, program, ready, rootfs, wait_readable
from tests.support.mounting import needs_mounts

__all__ = ["live", "program", "ready", "rootfs"]

pytestmark = needs_mounts


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until ``holds()``; fails after a minute."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, what
        threading.Event().wait(0.02)


@pytest.mark.parametrize("verb", ["restart", "upgrade"])
def test_the_installed_code_takes_over_and_mounts_stay(ready: Live, program: Program, verb: str) -> None:
    before, mounts = ready.json("daemon", "status"), ready.mounts()
    after = ready.json("daemon", verb)
    assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
    assert after["keeper"]["pid"] == before["keeper"]["pid"]  # also when it has executed other code
    assert not {each["pid"] for each in before["workers"]} & {each["pid"] for each in after["workers"]}
    assert program.write() == 2
    assert ready.mounts() == mounts
    ready.cowfs("checkpoint", "ws-1", "--label", "a")
    assert ready.cowfs("show", "ws-1@a:open-file").splitlines() == ["line"] * 2
    os.kill(after["supervisor"]["pid"], signal.SIGKILL)
    assert program.write() == 3
    ready.cowfs("list")  # waits for the next supervisor
    assert ready.json("daemon", "status")["keeper"] == before["keeper"]
    program.end()


def test_oom_scores(ready: Live) -> None:
    """The keeper goes last and a settler first; without CAP_SYS_RESOURCE, none can be protected."""
    (Path(ready.cowfs("path", "ws-1")) / "file").write_text("to be settled")
    ready.cowfs("checkpoint", "ws-1")
    eventually(lambda: bool(ready.json("daemon", "status")["settlers"]), "a settler")
    status = ready.json("daemon", "status")

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    keeper, supervisor = score(status["keeper"]["pid"]), score(status["supervisor"]["pid"])
    eventually(lambda: score(status["settlers"][0]["pid"]) == 300, "its score")
    capable = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16) >> 24 & 1
    expected = (-900, -500, -500) if capable else (0, 0, 0)
    assert (keeper, supervisor, score(status["workers"][0]["pid"])) == expected


def test_doctor_takes_away_what_a_dead_daemon_left(ready: Live, program: Program) -> None:
    status = ready.json("daemon", "status")
    (path,) = ready.mounts()
    pids = ready.pids()
    os.kill(status["keeper"]["pid"], signal.SIGSTOP)  # it would start a successor, and its end tells them to unmount
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    watched = os.pidfd_open(status["keeper"]["pid"])
    os.kill(status["keeper"]["pid"], signal.SIGKILL)
    assert wait_readable(watched)
    os.close(watched)
    assert ready.mounts() == [path]
    told = ready.run("doctor")
    assert (told.code, "is dead" in told.out, ready.mounts()) == (1, True, [path])
    fixed = ready.run("doctor", "--fix")
    assert "detached" in fixed.out, fixed.out + fixed.err
    assert ready.mounts() == []
    assert ready.cowfs("path", "ws-1") == path
    assert (Path(path) / "open-file").read_text() == "line\n"


def test_doctor_frees_who_hangs_and_nobody_else(ready: Live, program: Program) -> None:
    """Everything has died but a keeper that is stopped: its copy of the descriptor keeps the connection alive."""
    status = ready.json("daemon", "status")
    keeper, pids = status["keeper"]["pid"], ready.pids()
    other = Live(ready.store.parent / "other")
    other.cowfs("init")
    other.cowfs("create", "ws")
    neighbour = Path(other.cowfs("path", "ws"))
    os.kill(keeper, signal.SIGSTOP)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert program.process.stdin is not None
        program.process.stdin.write(b"line\n")
        program.process.stdin.flush()
        words = [sys.executable, "-P", "-c", _FIX, str(ready.store)]
        told = json.loads(subprocess.run(words, env=ready.env, capture_output=True, check=True, timeout=60).stdout)
        (found,) = told["connections"]
        assert (found["state"], "detached" in found["done"]) == ("hanging", True), found
        program.process.communicate(timeout=30)
        assert program.process.returncode != 0
        (neighbour / "file").write_text("served")
        assert ready.mounts() == []
    finally:
        os.kill(keeper, signal.SIGKILL)
        other.end()
    eventually(lambda: not os.path.exists(f"/proc/{keeper}"), "the keeper's end")
    assert (Path(ready.cowfs("path", "ws-1")) / "open-file").read_text().startswith("line\n")


_FIX = """
import json, sys
from cowfs_daemon import connections
print(json.dumps(connections.report(sys.argv[1], True, 1.0)))
"""


class Manager:
    """A service manager as systemd is one for its service: it keeps descriptors, and hands them to the next start."""

    def __init__(self, live: Live, path: Path) -> None:
        self.live = live
        self.said: list[str] = []
        self.kept: list[tuple[str, int]] = []
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(60)
        self.service: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the service, and wait for READY=1."""
        names = ":".join(name for name, _ in self.kept)
        environment = self.live.env | {"NOTIFY_SOCKET": str(self._path), "LISTEN_FDNAMES": names}
        words = [sys.executable, "-P", "-c", _EXEC, str(len(self.kept)), *(str(fd) for _, fd in self.kept)]
        words += self.live.words("daemon", "run")
        handed = [fd for _, fd in self.kept]
        self.service = subprocess.Popen(words, env=environment, pass_fds=handed, stderr=subprocess.DEVNULL)
        self.wait("READY=1")

    def wait(self, wanted: str) -> None:
        """Take in what is said up to ``wanted``."""
        while True:
            data, rights, _, _ = self._sock.recvmsg(4096, 1024)
            fds = array.array("i")
            for _, _, payload in rights:
                fds.frombytes(payload)
            text = data.decode()
            self.said.append(text)
            name = text.partition("FDNAME=")[2]
            if "FDSTORE=1" in text:
                self.kept += [(name, fd) for fd in fds]
            if "FDSTOREREMOVE=1" in text:
                for each in [each for each in self.kept if each[0] == name]:
                    os.close(each[1])
                    self.kept.remove(each)
            if wanted in text:
                return

    def close(self) -> None:
        """End the service, and forget everything."""
        if self.service is not None and self.service.poll() is None:
            self.service.kill()
            self.service.wait()
        for _, fd in self.kept:
            os.close(fd)
        self._sock.close()


_EXEC = """
import fcntl, os, sys
count = int(sys.argv[1])
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 200) for fd in sys.argv[2:2 + count]]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = str(count), str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


@pytest.fixture
def manager(live: Live, tmp_path: Path) -> Iterator[Manager]:
    live.cowfs("init")
    manager = Manager(live, tmp_path / "notify")
    yield manager
    with contextlib.suppress(AssertionError):
        live.end()
    manager.close()


def test_a_service_manager_keeps_the_mounts_when_everything_dies(manager: Manager, live: Live) -> None:
    manager.start()
    live.cowfs("create", "ws-1")
    path = live.cowfs("path", "ws-1")
    program = Program(Path(path))
    try:
        assert program.write() == 1
        manager.wait("FDSTORE=1")
        for _ in range(2):
            status: dict[str, Any] = live.json("daemon", "status")
            assert manager.service is not None
            assert status["keeper"]["pid"] == manager.service.pid
            workers = [os.pidfd_open(pid) for pid in live.pids()]
            manager.service.kill()
            manager.service.wait()
            for worker in workers:
                assert wait_readable(worker)
                os.close(worker)
            assert live.mounts() == [path]
            manager.start()
            assert program.write() >= 2
        live.cowfs("checkpoint", "ws-1", "--label", "a")
        assert live.cowfs("show", "ws-1@a:open-file").splitlines() == ["line"] * 3
        program.end()
    finally:
        program.process.kill()
        program.process.communicate()
    live.cowfs("daemon", "stop", "--force")
    manager.wait("STOPPING=1")
    assert manager.service is not None
    assert manager.service.wait(30) == 0
    assert live.mounts() == []
