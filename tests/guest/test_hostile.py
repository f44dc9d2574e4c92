"""Hostile messages in both directions: a guest against its host, a host against the guest, a program against both."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowfs.errors import Busy, Conflict, CowfsError, NotFound
from cowfs_cli.agent import protocol
from cowfs_cli.guests import lines
from cowfs_cli.guests.channel import GuestChannel
from tests.support.guests import Inside, serving

GUEST = "a" * 16
HOST = "b" * 16


class Evil:
    """A guest that says what a test wants; the host's requests are in ``heard``, one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self.session = ""

    def hear(self) -> dict[str, Any]:
        """What the host says next, hellos left out."""
        while True:
            line = self._file.readline()
            if line.strip():
                message: dict[str, Any] = json.loads(line)
                if "hello" not in message:
                    return message
                self.session = message["hello"]

    def say(self, *messages: object) -> None:
        data = b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in messages)
        self._connection.sendall(data)

    def hello(self, **more: object) -> None:
        """Wait for the host's, and answer it."""
        while not self.session:
            if (line := self._file.readline()).strip():
                self.session = json.loads(line)["hello"]
        self.say({"hello": GUEST, "of": self.session, "version": 1, "capabilities": ["ping"], **more})


@contextmanager
def evil(tmp_path: Path, plays: Callable[[Evil], object]) -> Iterator[str]:
    """The path of a socket behind which ``plays`` is played, once."""
    path = tmp_path / "vm.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)

        def play() -> None:
            connection, _ = sock.accept()
            connection.settimeout(30)
            with connection:
                try:
                    plays(Evil(connection))
                    while connection.recv(65536):
                        pass
                except (OSError, ValueError):
                    pass

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield str(path)
        finally:
            thread.join(30)
            assert not thread.is_alive()


PONG = {"python": "3.9", "frozen": False, "roots": ["/"]}


def answered(*answers: object) -> Callable[[Evil], None]:
    """Says hello, and then each answer to one request; ID is put in."""

    def plays(guest: Evil) -> None:
        guest.hello()
        for answer in answers:
            name = guest.hear()["id"]
            each = answer if isinstance(answer, list) else [answer]
            guest.say(*({**one, "id": name} if isinstance(one, dict) and "id" not in one else one for one in each))

    return plays


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": {}}, {"ok": []}, {"ok": 1}, {"ok": {**PONG, "python": 3}}, {"ok": {**PONG, "python": "x" * 65}},
        {"ok": {**PONG, "python": "\x1b[2J"}}, {"ok": {**PONG, "frozen": 1}}, {"ok": {**PONG, "roots": "/"}},
        {"ok": {**PONG, "roots": ["/"] * 65}}, {"ok": {**PONG, "roots": [{}]}}, {"error": "x"}, {"error": None},
    ],
)  # fmt: skip
def test_answers_of_wrong_types_are_refused(tmp_path: Path, answer: object) -> None:
    refused = pytest.raises(Conflict, match="does not keep to the protocol")
    with evil(tmp_path, answered(answer)) as path, GuestChannel(path) as guest, refused:
        guest.ping()


def test_an_error_is_shown_without_what_could_drive_a_terminal(tmp_path: Path) -> None:
    error = {"error": {"code": "not_found", "message": "\x1b[2Jgone\n" + "x" * 5000, "hint": 7}}
    other = {"error": {"code": ["x"], "message": None}}
    with evil(tmp_path, answered(error, other)) as path, GuestChannel(path) as guest:
        with pytest.raises(NotFound) as caught:
            guest.ping()
        assert caught.value.message.isprintable()
        assert (len(caught.value.message) < 1100, caught.value.hint) == (True, "")
        with pytest.raises(CowfsError):
            guest.ping()


def test_noise_is_dropped_and_the_answer_found(tmp_path: Path) -> None:
    nested = b"[" * 100_000 + b"\n"
    noise: list[object] = [
        b"\n", b"{\n", b"\xff\xfe\n", nested, b"x" * (3 << 20) + b"\n", b"1\n", b'{"id": 1%s}\n' % (b"0" * 5000),
        {"id": "x", "ok": {}}, {"id": 5, "ok": {}}, {"id": None}, {}, {"id": HOST + "-1", "ok": {}}, {"hello": 5},
        {"hello": "x"}, {"hello": GUEST, "of": HOST, "version": 9}, {"agent": "x", "id": GUEST + "-1"}, {"ok": PONG},
    ]  # fmt: skip
    with evil(tmp_path, answered(noise)) as path, GuestChannel(path) as guest:
        assert guest.ping().python == "3.9"
        assert guest.statistics().dropped >= 5
        assert guest.statistics().stale >= 5


def test_a_line_without_end_costs_no_memory() -> None:
    reader = lines.Reader()
    for _ in range(100):
        assert list(reader.feed(b"x" * 65536)) == []
    assert list(reader.feed(b'\n{"id": "1"}\n')) == [{"id": "1"}]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_cut_the_same_way_however_they_come(data: bytes, width: int) -> None:
    whole, pieces = lines.Reader(), lines.Reader()
    expected = list(whole.feed(data + b"\n"))
    got = [each for at in range(0, len(data), width) for each in pieces.feed(data[at : at + width])]
    assert [*got, *pieces.feed(b"\n")] == expected
    assert pieces.dropped == whole.dropped


def test_an_answer_counts_once(tmp_path: Path) -> None:
    twice = [{"ok": PONG}, {"ok": {**PONG, "python": "evil"}}]
    with evil(tmp_path, answered(twice, {"ok": {**PONG, "python": "2"}})) as path, GuestChannel(path) as guest:
        assert guest.ping().python == "3.9"
        assert guest.ping().python == "2"


def frame(data: bytes, stream: object = "stdout") -> dict[str, object]:
    return {"stream": stream, "data_b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "frames",
    [
        [frame(b"x" * 65536)] * 5, [frame(b"")], [{"stream": "stdout", "data_b64": "*"}], [{"stream": "stdout"}],
        [{"stream": "stdout", "data_b64": 5}], [{"ok": {"exit_code": 256, "timed_out": False}}],
        [{"ok": {"exit_code": True, "timed_out": False}}], [{"ok": {"exit_code": -1, "timed_out": False}}],
    ],
    ids=["too-much", "empty", "not-base64", "no-data", "no-text", "code-256", "code-true", "code-negative"],
)  # fmt: skip
def test_output_that_is_too_much_or_none_is_refused(tmp_path: Path, frames: list[object]) -> None:
    go = threading.Event()
    with evil(tmp_path, answered(frames)) as path, GuestChannel(path) as guest:

        def slow(_: bytes) -> None:
            go.wait(0.5)  # so that nothing is acknowledged meanwhile

        with pytest.raises(Conflict, match="does not keep to the protocol"):
            guest.exec(["x"], on_stdout=slow)


def test_output_for_what_runs_no_program_is_dropped(tmp_path: Path) -> None:
    odd = [frame(b"x"), frame(b"x", "stdin"), frame(b"x", ["stdout"]), {"ok": PONG}]
    with evil(tmp_path, answered(odd)) as path, GuestChannel(path) as guest:
        assert guest.ping().python == "3.9"
        assert guest.statistics().stale == 3


def test_a_guest_that_says_nothing_or_another_version(tmp_path: Path) -> None:
    with evil(tmp_path, lambda guest: None) as path, pytest.raises(Busy, match="no guest answers"):
        GuestChannel(path, seconds=0.7)
    (tmp_path / "vm.sock").unlink()
    with evil(tmp_path, lambda guest: guest.hello(version=2)) as path, pytest.raises(Conflict, match="version"):
        GuestChannel(path)
    (tmp_path / "vm.sock").unlink()
    with evil(tmp_path, lambda guest: guest.hello(capabilities="x")) as path, pytest.raises(Conflict):
        GuestChannel(path)


def test_a_guest_that_hangs_up_fails_what_is_pending(tmp_path: Path) -> None:
    def plays(guest: Evil) -> None:
        guest.hello()
        guest.hear()
        guest._connection.shutdown(socket.SHUT_RDWR)

    with evil(tmp_path, plays) as path, GuestChannel(path) as guest:
        with pytest.raises(Busy, match="hung up"):
            guest.ping()
        assert guest.wait_ended(10)
        with pytest.raises(Busy, match="hung up"):
            guest.ping()


def test_requests_from_inside_are_bounded(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    asked: list[bytes] = []
    first, go_on, sent, heard = (threading.Event() for _ in range(4))

    def answer(line: bytes) -> bytes:
        asked.append(line)
        first.set()
        go_on.wait(30)
        return protocol.answer({"ok": "é" * 20_000})

    def plays(guest: Evil) -> None:
        guest.hello()
        odd = [
            {"agent": 5, "id": GUEST + "-1"}, {"agent": "x", "id": HOST + "-1"}, {"agent": "x"},
            {"agent": "x" * 20_000, "id": GUEST + "-2"},
        ]  # fmt: skip
        guest.say(*odd, {"agent": "one", "id": GUEST + "-5"})
        first.wait(30)
        guest.say({"agent": "again", "id": GUEST + "-5"}, {"agent": "before", "id": GUEST + "-4"})
        guest.say(*({"agent": "many", "id": f"{GUEST}-{number}"} for number in range(6, 1006)))
        sent.set()
        parts: list[dict[str, Any]] = []
        while not parts or parts[-1]["more"]:
            parts.append(guest.hear())
        told.append({"name": parts[0]["answer"], "text": "".join(part["text"] for part in parts)})
        heard.set()

    with evil(tmp_path, plays) as path, GuestChannel(path, answer=answer) as guest:
        assert sent.wait(30)
        while guest.statistics().asked + guest.statistics().refused < 1002:
            assert not guest.wait_ended(0.02)
        go_on.set()
        assert guest.statistics().asked <= 10
        assert heard.wait(30)
    assert asked[0] == b"one"
    assert set(asked[1:]) <= {b"many"}
    assert told == [{"name": GUEST + "-5", "text": '{"ok": "' + "\\u00e9" * 20_000 + '"}\n'}]


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with serving(tmp_path) as made:
        yield made


class Host:
    """A host that says what a test wants."""

    def __init__(self, inside: Inside) -> None:
        with inside.channel():
            pass  # the server has started
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(30)
        self._sock.connect(str(inside.socket))
        self._file = self._sock.makefile("rb")

    def __enter__(self) -> Host:
        self.say(b"\n", {"hello": HOST})
        while self.hear().get("of") != HOST:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def say(self, *messages: object) -> None:
        for each in messages:
            self._sock.sendall(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        while not (line := self._file.readline()).strip():
            assert line
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, number: int, **fields: object) -> dict[str, Any]:
        """The answer to one request."""
        self.say({"id": f"{HOST}-{number}", **fields})
        return self.hear()


def test_the_server_drops_noise_and_goes_on(inside: Inside) -> None:
    noise: list[object] = [
        b"\n", b"{\n", b"\xff\n", b"[" * 60_000 + b"\n", b"x" * 200_000 + b"\n", b"null\n", {"do": "ping"}, {},
        {"id": 1, "do": "ping"}, {"id": "x", "do": "ping"}, {"id": GUEST + "-1", "do": "ping"}, {"ack": []},
        {"cancel": {}}, {"ack": "x", "bytes": -1}, {"answer": 1}, {"answer": "x", "text": 5}, {"hello": 1},
    ]  # fmt: skip
    with Host(inside) as host:
        host.say(*noise)
        assert host.ask(1, do="ping")["ok"]["frozen"] is False


def test_the_server_refuses_what_is_wrong(inside: Inside) -> None:
    wrong: list[dict[str, object]] = [
        {"do": "rm"}, {"do": []}, {"do": "ping", "x": 1}, {"do": "freeze", "seconds": "1"},
        {"do": "freeze", "seconds": True},
        {"do": "exec"}, {"do": "exec", "argv": []}, {"do": "exec", "argv": [""]}, {"do": "exec", "argv": ["a\0b"]},
        {"do": "exec", "argv": ["true"], "env": {"A=B": "x"}}, {"do": "exec", "argv": ["true"], "env": []},
        {"do": "exec", "argv": ["\ud800"]}, {"do": "exec", "argv": ["true"], "stdin": 5},
        {"do": "exec", "argv": "true"},
        {"do": "exec", "argv": ["true"], "timeout_seconds": 0}, {"do": "clock", "time_ns": 1.5}, {"do": "clock"},
        {"do": "hygiene", "seed_b64": "*"}, {"do": "hygiene", "machine_id": "yes"}, {"do": "hygiene", "hostname": 5},
        {"do": "exec", "argv": ["true"], "stdin": "\ud800"},
    ]  # fmt: skip
    with Host(inside) as host:
        for number, each in enumerate(wrong, 1):
            answer = host.ask(number, **each)
            assert answer["error"]["code"] == "invalid", each
        replayed = host.ask(1, do="ping")
        assert (replayed["error"]["code"], "used already" in replayed["error"]["message"]) == ("conflict", True)
        assert "ok" in host.ask(len(wrong) + 1, do="ping")


def test_the_server_does_only_so_much_at_once(inside: Inside) -> None:
    with Host(inside) as host:
        for number in range(1, 20):
            host.say({"id": f"{HOST}-{number}", "do": "exec", "argv": ["sleep", "600"]})
        refused = [host.hear() for _ in range(3)]
        assert [each["error"]["code"] for each in refused] == ["busy"] * 3
        host.say(*({"cancel": f"{HOST}-{number}"} for number in range(1, 17)))
        assert {host.hear()["error"]["code"] for _ in range(16)} == {"conflict"}
        assert "ok" in host.ask(30, do="ping")


@pytest.mark.parametrize("line", [b"\xff\n", b"x" * 16_384, b"x\n"])
def test_a_program_inside_gets_an_error_and_the_server_goes_on(inside: Inside, line: bytes) -> None:
    with Host(inside) as host, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(inside.agent))
        client.sendall(line)
        assert json.loads(client.makefile().readline())["error"]["code"] in ("invalid", "busy")
        assert "ok" in host.ask(1, do="ping")


def test_answers_from_the_host_are_put_together(inside: Inside) -> None:
    with Host(inside) as host, socket.socket(socket.AF_UNIX) as client:
        host.say({"hello": HOST, "agent": True})
        assert host.hear()["of"] == HOST
        client.settimeout(30)
        client.connect(str(inside.agent))
        client.sendall(b'{"verb": "log"}\n')
        asked = host.hear()
        assert asked["agent"] == '{"verb": "log"}'
        host.say({"answer": "x", "text": "no", "more": False}, {"answer": asked["id"], "text": "a" * 9, "more": 1})
        host.say({"answer": asked["id"], "text": "b" * 9, "more": True}, {"answer": asked["id"], "text": "c\n"})
        assert client.makefile().readline() == "b" * 9 + "c\n"
        client.sendall(b'{"verb": "log"}\n')
        host.hear()
        host.say({"hello": "c" * 16})  # the host was started anew
        assert "went away" in client.makefile().readline()
