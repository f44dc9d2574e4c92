"""The channel between a host and the server inside, both of them real: requests, programs, two sides that restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound
from cowfs_cli.guests import lines
from cowfs_cli.guests.channel import GuestChannel
from cowfs_guest import conversation, running, wire
from tests.support.guests import Inside, serving


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def guest(inside: Inside) -> Iterator[GuestChannel]:
    with inside.channel() as made:
        yield made


def until(happened: threading.Event) -> None:
    assert happened.wait(30)


def test_both_sides_have_the_same_bounds() -> None:
    assert (wire.REQUEST_BYTES, wire.LINE_BYTES) == (lines.REQUEST_BYTES, lines.LINE_BYTES)
    assert (running.WINDOW_BYTES, conversation.VERSION) == (lines.WINDOW_BYTES, lines.VERSION)


def test_ping_says_who_answers(guest: GuestChannel) -> None:
    found = guest.ping()
    assert (found.frozen, found.roots) == (False, ["/proc"])
    assert {"exec", "freeze", "thaw"} <= set(found.capabilities)


def test_a_program_gets_what_it_is_given_and_its_output_comes_back(guest: GuestChannel) -> None:
    out, err = bytearray(), bytearray()
    script = 'cat; pwd; echo "$NAME" >&2; exit 3'
    done = guest.exec(
        ["sh", "-c", script],
        env={"NAME": "vä"},
        cwd="/tmp",
        stdin="gïven\n",
        on_stdout=out.extend,
        on_stderr=err.extend,
    )
    assert (done.exit_code, done.timed_out) == (3, False)
    assert (out.decode(), err.decode()) == ("gïven\n/tmp\n", "vä\n")


def test_a_signal_is_an_exit_code_and_what_does_not_exist_is_not_found(guest: GuestChannel) -> None:
    assert guest.exec(["sh", "-c", "kill -9 $$"]).exit_code == 137
    with pytest.raises(NotFound, match="no-such-program"):
        guest.exec(["no-such-program"])
    with pytest.raises(NotFound, match="no-such-directory"):
        guest.exec(["true"], cwd="/no-such-directory")


def test_a_program_ends_with_its_time_and_all_that_it_started(guest: GuestChannel) -> None:
    pids = bytearray()
    done = guest.exec(["sh", "-c", "echo $$; sleep 600 & echo $!; wait"], timeout_seconds=0.5, on_stdout=pids.extend)
    assert (done.exit_code, done.timed_out) == (137, True)
    assert not any(alive(int(pid)) for pid in pids.split())


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_much_output_comes_whole_while_other_requests_are_answered(guest: GuestChannel) -> None:
    taken = 0
    blocked = threading.Event()
    go_on = threading.Event()

    def slow(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        blocked.set()
        until(go_on)

    done: list[int] = []
    script = "head -c 3000000 /dev/zero; echo end >&2"
    thread = threading.Thread(target=lambda: done.append(guest.exec(["sh", "-c", script], on_stdout=slow).exit_code))
    thread.start()
    until(blocked)
    assert guest.ping().frozen is False  # nobody takes the output, and yet
    assert guest.exec(["true"]).exit_code == 0
    assert done == []
    go_on.set()
    thread.join(60)
    assert (done, taken) == ([0], 3_000_000)


def test_what_a_program_leaves_running_does_not_keep_the_host(guest: GuestChannel) -> None:
    out = bytearray()
    before = time.monotonic()
    assert guest.exec(["sh", "-c", "sleep 600 & echo $!"], on_stdout=out.extend).exit_code == 0
    assert time.monotonic() - before < 60
    assert guest.exec(["kill", out.decode().strip()]).exit_code == 0  # it was left alone
    busy = "(while :; do echo x; done) & echo $!"
    out.clear()
    assert guest.exec(["bash", "-c", busy], on_stdout=out.extend).exit_code == 0


def test_a_callback_that_fails_stops_the_program(guest: GuestChannel) -> None:
    seen = bytearray()

    def fails(data: bytes) -> None:
        seen.extend(data)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guest.exec(["sh", "-c", "echo $$; exec sleep 600"], on_stdout=fails)
    gone(int(seen.split()[0]))


def gone(pid: int) -> None:
    """Wait for the end of a process of somebody else."""
    deadline = time.monotonic() + 30
    turn = threading.Event()
    while alive(pid):
        assert time.monotonic() < deadline
        turn.wait(0.02)


def test_a_host_that_goes_away_takes_its_programs_along(inside: Inside) -> None:
    pid: list[int] = []
    started = threading.Event()

    def begin(data: bytes) -> None:
        pid.append(int(data))
        started.set()

    failed: list[CowfsError] = []
    first = inside.channel()

    def run() -> None:
        try:
            first.exec(["sh", "-c", "echo $$; exec sleep 600"], on_stdout=begin)
        except CowfsError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(started)
    first.close()
    thread.join(30)
    assert isinstance(failed[0], Busy)
    with inside.channel() as second:  # its hello is what tells, on a port without connections
        gone(pid[0])
        assert second.exec(["true"]).exit_code == 0


def test_a_server_that_is_started_anew_fails_what_is_pending_and_goes_on(inside: Inside, guest: GuestChannel) -> None:
    started = threading.Event()
    failed: list[CowfsError] = []

    def run() -> None:
        try:
            guest.exec(["sh", "-c", "echo; exec cat /proc/self/fd/3 3<>/dev/null"], on_stdout=lambda _: started.set())
            guest.exec(["sh", "-c", "echo; read x < /dev/ptmx"], on_stdout=lambda _: started.set())
        except CowfsError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(started)
    inside.again()
    thread.join(30)
    assert isinstance(failed[0], Busy)
    assert "anew" in failed[0].message
    assert guest.ping().frozen is False


def test_one_program_at_a_time(inside: Inside, guest: GuestChannel) -> None:
    with pytest.raises(Busy, match="no guest answers"):
        inside.channel(seconds=1.0)
    assert guest.ping()


def test_no_socket_and_no_server(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no socket"):
        GuestChannel(str(tmp_path / "none"))


def test_requests_that_are_too_long_are_refused_here(guest: GuestChannel) -> None:
    with pytest.raises(Invalid, match="at most 65536 bytes"):
        guest.exec(["echo", "x" * 70_000])
    assert guest.exec(["true"], stdin="x" * 60_000).exit_code == 0


def test_thaw_of_what_is_not_frozen_is_a_conflict(guest: GuestChannel) -> None:
    with pytest.raises(Conflict, match="nothing is frozen"):
        guest.thaw()


def test_the_clock_takes_only_times_that_can_be(guest: GuestChannel) -> None:
    for wrong in (0, -1, 1 << 63, 10**30):
        with pytest.raises(Invalid, match="2000"):
            guest.clock(wrong)


def test_a_clock_that_may_not_be_set_says_so(guest: GuestChannel) -> None:
    with pytest.raises(Invalid, match="the clock cannot be set: Operation not permitted"):
        guest.clock()
