"""The agent's verbs from inside of a virtual machine: real store, real server inside, real ``cowfs guest serve``."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.guest.test_freezing import disk
from tests.support.guests import Inside, serving
from tests.support.mounting import needs_mounts, needs_root

pytestmark = [needs_root("mounts an ext4 image"), *needs_mounts]

__all__ = ["disk"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("agent") / "store") as made:
        yield made


@pytest.fixture
def live(store: Live) -> Iterator[Live]:
    """A store whose workspace ``vm-1`` is new."""
    store.cowfs("create", "vm-1")
    yield store
    store.cowfs("rm", "--force", *(each["name"] for each in store.json("list")))


@pytest.fixture
def inside(tmp_path: Path, disk: Path) -> Iterator[Inside]:
    with serving(tmp_path, "--root", str(disk)) as made:
        yield made


@contextmanager
def answering(live: Live, inside: Inside, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``cowfs guest serve``, once it is connected."""
    command = live.words("guest", str(inside.socket), "serve", "vm-1", *words, "--json")
    program = subprocess.Popen(command, env=live.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline()) == {"serving": "vm-1"}
        yield program
    finally:
        program.terminate()
        program.communicate(timeout=60)


def ask(inside: Inside, *words: str) -> subprocess.CompletedProcess[str]:
    """What a program inside is told; it must be connected first, which may take until its server has started."""
    program = inside.guest(*words)
    out, err = program.communicate(timeout=60)
    return subprocess.CompletedProcess(words, program.returncode, out, err)


def test_a_program_inside_asks_its_host(live: Live, inside: Inside) -> None:
    root = Path(live.cowfs("path", "vm-1"))
    (root / "disk.img").write_text("good")
    with answering(live, inside, "--allow", "restore,fork"):
        assert "workspace vm-1: ping, checkpoint" in ask(inside, "ping").stdout
        made = ask(inside, "checkpoint", "-m", "it works", "--label", "good").stdout.strip()
        assert made.startswith("snap-")
        (root / "disk.img").write_text("bad")
        assert ask(inside, "diff", "@good").stdout == "modified disk.img\n"
        assert ask(inside, "fork", "idea").stdout == "vm-1-idea\n"
        refused = ask(inside, "restore", "@good")
        assert (refused.returncode, "--restore-hook" in refused.stderr) == (4, True)
    assert live.cowfs("show", "vm-1-idea:disk.img") == "bad"
    assert {each["id"]: each["creator"] for each in live.json("log", "vm-1")}[made] == "agent"
    assert ask(inside, "ping").returncode == 5  # nobody answers any more


def test_what_is_not_allowed_is_refused(live: Live, inside: Inside) -> None:
    with answering(live, inside):
        for words in (("restore", "@latest"), ("fork", "x")):
            refused = ask(inside, *words)
            assert (refused.returncode, "does not allow" in refused.stderr) == (4, True)


def test_files_stand_still_for_a_checkpoint(live: Live, inside: Inside, disk: Path) -> None:
    """What the workspace sees is what the frozen filesystem's disk is: shown by a disk that cannot be frozen."""
    with answering(live, inside):
        assert ask(inside, "checkpoint", "--label", "a").returncode == 0
        with inside_frozen(disk):
            refused = ask(inside, "checkpoint", "--label", "b")
        assert (refused.returncode, "by another program" in refused.stderr) == (4, True)
    assert [label for each in live.json("log", "vm-1") for label in each["labels"]] == ["a"]


@contextmanager
def inside_frozen(disk: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)


def test_a_restore_is_done_between_stop_and_start(live: Live, inside: Inside, tmp_path: Path) -> None:
    root = Path(live.cowfs("path", "vm-1"))
    (root / "disk.img").write_text("good")
    live.cowfs("checkpoint", "vm-1", "--label", "good")
    (root / "disk.img").write_text("bad")
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$1 $COWFS_WORKSPACE $(cat {root}/disk.img)" >> {tmp_path}/calls\n')
    hook.chmod(0o755)
    with answering(live, inside, "--allow", "restore", "--restore-hook", str(hook)):
        done = ask(inside, "restore", "@good", "--json")
        assert json.loads(done.stdout)["changed"] == 1
        hook.write_text("#!/bin/sh\nexit 3\n")
        refused = ask(inside, "restore", "@good")
        assert (refused.returncode, "to stop the machine failed" in refused.stderr) == (4, True)
    assert (tmp_path / "calls").read_text() == "stop vm-1 bad\nstart vm-1 good\n"


def test_a_server_inside_that_is_started_anew_is_answered_again(live: Live, inside: Inside) -> None:
    with answering(live, inside):
        assert ask(inside, "ping").returncode == 0
        inside.again()
        deadline = time.monotonic() + 30
        while ask(inside, "ping").returncode:
            assert time.monotonic() < deadline


def test_the_host_limits_how_often(live: Live, inside: Inside) -> None:
    with answering(live, inside):
        assert "too many requests" in pings(inside, 25)[-1]


def pings(inside: Inside, times: int) -> list[str]:
    """Answers to many pings on one connection of a program inside."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(inside.agent))
        answers = client.makefile()
        told = []
        for _ in range(times):
            client.sendall(b'{"verb": "ping"}\n')
            told.append(answers.readline())
        return told
