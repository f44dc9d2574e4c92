"""``cowfs run --agent``: the verbs from inside of a real sandbox, and what a hostile program there can do with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowfs.client import Store, connect
from cowfs.errors import Invalid
from cowfs_cli.agent import folder, protocol, serve
from tests.cli.live import Live
from tests.support.rootfs import add_python

pytestmark = [pytest.mark.fuse]

GUEST = [sys.executable, str(Path(folder.__file__).parents[3] / "guest" / "cowfs_guest" / "__main__.py")]


@pytest.fixture
def sock(live: Live, tmp_path: Path) -> Iterator[Path]:
    """A socket for ``ws`` that may do everything, many times a minute."""
    path = tmp_path / "agent.sock"
    grant = serve.Grant(frozenset(protocol.CHOICES), per_minute=100_000, forks=2)
    with connect(live.store) as store, serve.serving(store, "ws", str(path), grant):
        yield path
    assert not path.exists()


def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    """The answers to some lines on one connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"".join(lines))
        client.shutdown(socket.SHUT_WR)
        data = b""
        while piece := client.recv(65536):
            data += piece
    return [json.loads(line) for line in data.splitlines()]


def guest(path: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the guest's program on this side."""
    made = path.parent / "shown"
    if not made.exists():
        folder.make(made)
    env = {"COWFS_AGENT": str(path), "PATH": os.environ["PATH"]}
    return subprocess.run([python, str(made / "cowfs-guest"), *words], env=env, capture_output=True, text=True)


def test_the_verbs_of_the_program(live: Live, sock: Path) -> None:
    root = Path(live.cowfs("path", "ws"))
    (root / "f").write_text("good")
    made = guest(sock, "checkpoint", "-m", "it works", "--label", "good").stdout.strip()
    assert made.startswith("snap-")
    (root / "f").write_text("bad")
    assert guest(sock, "diff", "@good").stdout.splitlines() == ["modified f"]
    restored = guest(sock, "restore", "@good")
    assert restored.stdout.startswith(f"{made} (1 files changed; back again: cowfs-guest restore snap-")
    assert (root / "f").read_text() == "good"
    undo = restored.stdout.rpartition(" ")[2].strip(")\n")
    assert guest(sock, "restore", undo).returncode == 0
    assert (root / "f").read_text() == "bad"
    assert f"{made} @good it works" in guest(sock, "log").stdout.splitlines()
    assert guest(sock, "fork", "idea", "@good").stdout == "ws-idea\n"
    assert live.cowfs("show", "ws-idea:f") == "good"
    assert json.loads(guest(sock, "ping", "--json").stdout)["workspace"] == "ws"
    creators = {each["id"]: each["creator"] for each in live.json("log", "ws")}
    assert (creators[made], creators[undo]) == ("agent", "cowfs")
    nothing = guest(sock, "restore", "@none")
    assert (nothing.returncode, "cowfs-guest: " in nothing.stderr) == (3, True)


def test_what_has_no_label_counts_as_automatic(live: Live, sock: Path) -> None:
    live.cowfs("set", "ws", "retention.automatic=3")
    root = Path(live.cowfs("path", "ws"))
    for number in range(6):
        (root / "f").write_text(str(number))
        ask(sock, b'{"verb": "checkpoint"}\n')
    live.cowfs("gc", "--prune")
    assert len([each for each in live.json("log", "ws") if each["automatic"]]) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"{}\n", b"[]\n", b"null\n", b'{"verb": 1}\n', b'{"verb": "rm"}\n', b'{"verb": "__init__"}\n', b"\xff\n",
        b'{"verb": "checkpoint", "message": 5}\n', b'{"verb": "checkpoint", "creator": "root"}\n',
        b'{"verb": "checkpoint", "label": "a\\u0000b"}\n', b'{"verb": "checkpoint", "message": "%s"}\n' % (b"x" * 5000),
        b'{"verb": "restore", "ref": "other@latest"}\n', b'{"verb": "diff", "a": "other"}\n',
        b'{"verb": "restore", "ref": "../x"}\n', b"[" * 15_000 + b"\n", b'{"verb": "fork"}\n',
        b'{"verb": "fork", "name": "../../x"}\n', b'{"verb": "checkpoint", "label": "latest"}\n',
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_the_next_request_answered(live: Live, sock: Path, line: bytes) -> None:
    first, second = ask(sock, line, b'{"verb": "ping"}\n')
    assert isinstance(first["error"], dict)
    assert first["error"]["code"] in ("invalid", "conflict")
    assert "ok" in second
    assert [each["name"] for each in live.json("list")] == ["ws"]


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"")) | st.text(max_size=100).map(str.encode))
def test_any_line_is_parsed_or_refused(line: bytes) -> None:
    try:
        verb, fields = protocol.parse(line)
    except Invalid:
        return
    assert verb in protocol.VERBS
    assert set(fields) <= set(protocol.VERBS[verb])


def test_other_workspaces_are_out_of_reach(live: Live, sock: Path) -> None:
    live.cowfs("create", "secret")
    (Path(live.cowfs("path", "secret")) / "key").write_text("x")
    theirs = live.cowfs("checkpoint", "secret", "--label", "theirs")
    ask(sock, b'{"verb": "checkpoint", "label": "mine"}\n')
    for request in (
        {"verb": "diff", "a": theirs}, {"verb": "diff", "b": theirs}, {"verb": "restore", "ref": theirs},
        {"verb": "fork", "name": "x", "ref": theirs}, {"verb": "fork", "name": "x", "ref": theirs[:9]},
        {"verb": "restore", "ref": "@theirs"}, {"verb": "diff", "a": "@theirs"},
    ):  # fmt: skip
        (answer,) = ask(sock, json.dumps(request).encode() + b"\n")
        assert "error" in answer, request
    assert sorted(each["name"] for each in live.json("list")) == ["secret", "ws"]


def test_a_line_without_end_is_cut_off(live: Live, sock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(sock))
        client.sendall(b"x" * protocol.REQUEST_BYTES)
        assert b"at most" in client.recv(65536)
        assert client.recv(1) == b""
    assert "ok" in ask(sock, b'{"verb": "ping"}\n')[0]


def test_many_connections_wait_their_turn(live: Live, sock: Path) -> None:
    held = []
    for _ in range(serve.CONNECTIONS_MAX):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(sock))
        held.append(client)
    done = threading.Event()

    def late() -> None:
        assert "ok" in ask(sock, b'{"verb": "ping"}\n')[0]
        done.set()

    thread = threading.Thread(target=late)
    thread.start()
    try:
        assert not done.wait(0.3)
    finally:
        for client in held:
            client.close()
        thread.join()
    assert done.is_set()


def test_what_is_not_allowed(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with connect(live.store) as store, serve.serving(store, "ws", str(path), serve.Grant(forks=0)):
        for verb in (b'{"verb": "restore"}\n', b'{"verb": "fork", "name": "x"}\n'):
            (answer,) = ask(path, verb)
            assert "does not allow" in str(answer)
        assert ask(path, b'{"verb": "ping"}\n')[0]["ok"] == {
            "workspace": "ws", "verbs": ["ping", "checkpoint", "log", "diff"],
        }  # fmt: skip


def test_forks_are_counted(live: Live, sock: Path) -> None:
    answers = [ask(sock, b'{"verb": "fork", "name": "%d"}\n' % number)[0] for number in range(3)]
    assert ["ok" in answer for answer in answers] == [True, True, False]


def test_other_users_of_the_machine_cannot_reach_it(live: Live) -> None:
    """The socket is open to whatever user the program becomes inside; its folder lies in one that is closed."""
    live.cowfs("run", "ws", "--", "sh", "-c", "mkdir -p /srv")
    script = "echo x > /srv/begun; while ! [ -e /srv/go ]; do :; done"
    root = Path(live.cowfs("path", "ws"))
    before = set(Path(tempfile.gettempdir()).glob("cowfs-agent-*"))
    thread = threading.Thread(target=lambda: live.run("run", "ws", "--agent", "--", "sh", "-c", script))
    thread.start()
    try:
        until = time.monotonic() + 30
        while not (root / "srv/begun").exists():
            assert time.monotonic() < until
        (outer,) = set(Path(tempfile.gettempdir()).glob("cowfs-agent-*")) - before
        assert outer.stat().st_mode & 0o077 == 0
        assert len(list(outer.glob("*/agent.sock"))) == 1
    finally:
        (root / "srv/go").touch()
        thread.join()
    assert not outer.exists()


def test_too_many_requests_are_told_to_wait(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with connect(live.store) as store, serve.serving(store, "ws", str(path), serve.Grant(per_minute=30)):
        answers = ask(path, *[b'{"verb": "ping"}\n'] * 20)
        assert ["ok" in answer for answer in answers[:10]] == [True] * 10
        assert "too many requests" in str(answers[-1])
        until = time.monotonic() + 30
        while "ok" not in ask(path, b'{"verb": "ping"}\n')[0]:  # it lets one more through in two seconds
            assert time.monotonic() < until
            threading.Event().wait(0.1)


def test_another_user_is_refused(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with connect(live.store) as store, serve.serving(store, "ws", str(path), serve.Grant(uid=12_345)):
        assert "another user" in str(ask(path, b'{"verb": "ping"}\n'))


def test_it_ends_with_its_workspace_and_when_it_is_taken_back(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    live.cowfs("create", "other")
    with connect(live.store) as store:
        with serve.serving(store, "other", str(path), serve.Grant()):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            live.cowfs("rm", "other")
            assert "error" in ask(path, b'{"verb": "ping"}\n')[0]
            live.cowfs("create", "other")  # another one of the same name
            assert "gone" in str(ask(path, b'{"verb": "ping"}\n')[0])
        assert client.recv(10) == b""
        client.close()
        with pytest.raises(FileNotFoundError):
            ask(path, b"\n")


@contextmanager
def held(path: Path, store: Store, label: bytes) -> Iterator[tuple[serve.Served, threading.Event]]:
    """A socket of ``ws`` with as many checkpoints being carried out as there are connections, and forks that wait; the
    event lets them go on."""
    begun, go = threading.Semaphore(0), threading.Event()

    @contextmanager
    def still() -> Iterator[None]:
        begun.release()
        assert go.wait(60)
        yield

    grant = serve.Grant(frozenset(protocol.CHOICES), per_minute=1000, still=still)
    served = serve.Served(serve.Agent(store, "ws", grant), str(path), grant)
    with ExitStack() as clients:
        clients.callback(go.set)
        for number in range(2 * serve.CONNECTIONS_MAX):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            if number < serve.CONNECTIONS_MAX:
                client.sendall(b'{"verb": "checkpoint", "label": "%s"}\n{"verb": "fork", "name": "piped"}\n' % label)
                assert begun.acquire(timeout=60)
            else:
                client.sendall(b'{"verb": "fork", "name": "waited"}\n')
        yield served, go


def test_when_it_is_taken_back_nothing_is_under_way_and_nothing_begins(live: Live, tmp_path: Path) -> None:
    live.cowfs("path", "ws")
    closed = threading.Event()
    with connect(live.store) as store, held(tmp_path / "agent.sock", store, b"begun") as (served, go):

        def close() -> None:
            served.close()
            closed.set()

        thread = threading.Thread(target=close)
        thread.start()
        try:
            assert not closed.wait(0.5), "requests that have begun are waited for"
        finally:
            go.set()
            thread.join(60)
        assert closed.is_set()
        labels = {label for each in live.json("log", "ws") for label in each["labels"]}
        assert labels == {"begun"}
    assert [each["name"] for each in live.json("list")] == ["ws"]


LATE = """
import os, socket
def ask(line):
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.environ["COWFS_AGENT"])
    client.sendall(line)
    return client
open("/work", "w").write("mine")
ask(b'{"verb": "checkpoint", "label": "mine"}\\n').recv(1000)
held = [ask(b'{"verb": "checkpoint"}\\n') for _ in range(8)]
late = [ask(line) for line in [b'{"verb": "restore", "ref": "@mine"}\\n', b'{"verb": "fork", "name": "late"}\\n'] * 3]
os._exit(1)
"""


def test_what_a_program_leaves_behind_does_not_undo_the_restore_on_failure(live: Live) -> None:
    root = Path(live.cowfs("path", "ws"))
    if not add_python(root):
        pytest.skip("needs /usr/bin/python3")
    (root / "work").write_text("good")
    (root / "late.py").write_text(LATE)
    options = ("--agent", "--allow", "restore", "--allow", "fork", "--restore-on-failure")
    ended = live.run("run", "ws", *options, "--", "/usr/bin/python3", "/late.py")
    assert (ended.code, "restored the state before" in ended.err) == (1, True), ended.err
    assert (root / "work").read_text() == "good"


def test_an_agent_in_a_sandbox_takes_back_what_it_broke(live: Live, tmp_path: Path) -> None:
    if not add_python(Path(live.cowfs("path", "ws"))):
        pytest.skip("needs /usr/bin/python3")
    script = """
        set -e
        cat /run/cowfs/llms.txt > /dev/null
        echo good > /work
        /run/cowfs/cowfs-guest checkpoint -m 'it works' --label good > /dev/null
        echo bad > /work; mkdir /new; rm -r /etc
        /run/cowfs/cowfs-guest restore @good > /dev/null
        cat /work; ls -d /etc /new 2>/dev/null || true
        python3 -c "from cowfs_guest import checkpoint, log; checkpoint('again', label='py'); print(len(log()))"
    """
    said = live.run("run", "ws", "--agent", "--allow", "restore", "--", "sh", "-c", script)
    assert said.code == 0, said.err
    assert said.out.split()[:2] == ["good", "/etc"]
    assert {label for each in live.json("log", "ws") for label in each["labels"]} == {"good", "py"}
    refused = live.run("run", "ws", "--agent", "--", "/run/cowfs/cowfs-guest", "restore", "@good")
    assert (refused.code, "does not allow" in refused.err) == (4, True)
    without = live.run("run", "ws", "--", "sh", "-c", "ls /run")
    assert without.out == ""
    assert live.run("run", "ws", "--allow", "restore", "--", "true").code == 2


def test_the_guest_runs_on_an_older_python(live: Live, sock: Path) -> None:
    """Only what Python 3.9 has: checked by its grammar, since hardly a machine has one."""
    import ast

    for path in (Path(folder.__file__).parents[3] / "guest" / "cowfs_guest").glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))
        assert "from __future__ import annotations" in path.read_text()
