"""``cowfs guest`` as a command, the way to Firecracker, and the server under the oldest Python that it is for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cowfs.errors import Busy, Invalid
from cowfs_cli.agent import folder
from cowfs_cli.guests.channel import GuestChannel
from tests.support.guests import Inside, serving


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with serving(tmp_path) as made:
        yield made


def cowfs(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "cowfs_cli", "guest", *words]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=60)


def test_the_commands(inside: Inside) -> None:
    path = str(inside.socket)
    assert json.loads(cowfs(path, "ping", "--json").stdout)["roots"] == ["/proc"]
    ran = cowfs(path, "exec", "--stdin", "--env", "A=b", "--", "sh", "-c", "cat; echo $A >&2; exit 7", stdin="in")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("in", "b\n", 7)
    told = cowfs(path, "exec", "--json", "--", "echo", "x")
    assert (json.loads(told.stdout), told.stderr) == ({"exit_code": 0, "timed_out": False}, "x\n")
    for words, code in (
        (("freeze-check",), 2), (("trim",), 2), (("thaw",), 4), (("hygiene",), 2), (("exec", "--", "no-such"), 3),
        (("exec", "--stdin", "--", "cat"), 2), (("serve", "ws", "--allow", "rm"), 2),
    ):  # fmt: skip
        failed = cowfs(path, *words, "--json") if "--" not in words else cowfs(path, *words, stdin="x" * 50_000)
        assert failed.returncode == code, failed.stderr
        if "--" not in words:
            assert json.loads(failed.stderr)["error"]["hint"] or code in (2, 4)
    missing = cowfs(path + "-none", "ping")
    assert (missing.returncode, "there is no socket" in missing.stderr) == (3, True)


@contextmanager
def firecracker(directory: Path, inside: Path, port: int) -> Iterator[str]:
    """What stands at Firecracker's socket: it asks for a port first, and hangs up when nobody listens to that one."""
    path = directory / "v.sock"

    def serve(sock: socket.socket) -> None:
        while True:
            connection, _ = sock.accept()
            with connection:
                line = connection.recv(64)
                if line == b"":
                    return
                if line == f"CONNECT {port}\n".encode():
                    with socket.socket(socket.AF_UNIX) as behind:
                        behind.connect(str(inside))
                        connection.sendall(b"OK 1073741824\n")
                        back = threading.Thread(target=pass_on, args=(behind, connection))
                        back.start()
                        pass_on(connection, behind)
                        back.join()
                elif line.startswith(b"CONNECT 1\n"):
                    connection.sendall(b"HTTP/1.1 400 Bad Request and more of it\n")

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        thread = threading.Thread(target=serve, args=(sock,))
        thread.start()
        try:
            yield str(path)
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(30)


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def test_firecrackers_socket_wants_a_port_first(inside: Inside, tmp_path: Path) -> None:
    with firecracker(tmp_path, inside.socket, 7000) as path:
        with GuestChannel(path, vsock_port=7000) as guest:
            assert guest.exec(["true"]).exit_code == 0
        with pytest.raises(Busy, match="nobody listens to port 7001"):
            GuestChannel(path, vsock_port=7001)
        with pytest.raises(Invalid, match="vsock protocol"):
            GuestChannel(path, vsock_port=1)


def oldest() -> str | None:
    """A real Python 3.9."""
    found = [*Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"), shutil.which("python3.9")]
    for each in (str(path) for path in found if path is not None):
        if subprocess.run([each, "--version"], capture_output=True).returncode == 0:
            return each
    return None


@pytest.mark.skipif(oldest() is None, reason="there is no Python 3.9")
def test_python_3_9_compiles_it_and_serves(tmp_path: Path) -> None:
    python = oldest()
    assert python is not None
    source = str(Path(folder.__file__).parents[3] / "guest" / "cowfs_guest")
    compiled = subprocess.run(
        [python, "-X", f"pycache_prefix={tmp_path}", "-m", "compileall", "-q", source], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout
    folder.program(tmp_path / "cowfs-guest")
    path = tmp_path / "vm.sock"
    ours, theirs = socket.socketpair()
    words = [python, str(tmp_path / "cowfs-guest"), "serve", "--fd", str(theirs.fileno()), "--agent-socket", ""]
    server = subprocess.Popen(words, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            with ours:
                relay = threading.Thread(target=relayed, args=(sock, ours))
                relay.start()
                with GuestChannel(str(path), seconds=30) as guest:
                    assert guest.ping().python.startswith("3.9.")
                    assert guest.exec(["sh", "-c", "exit 3"]).exit_code == 3
                relay.join(30)
        assert server.wait(30) == 0  # its stream has ended
    finally:
        server.kill()
        server.wait()


def relayed(sock: socket.socket, other: socket.socket) -> None:
    connection, _ = sock.accept()
    with connection:
        back = threading.Thread(target=pass_on, args=(other, connection))
        back.start()
        pass_on(connection, other)
        back.join()
