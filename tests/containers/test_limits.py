"""``cowfs run --memory --cpus --pids --freeze``: in a control group of the sandbox's own, which goes with it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from cowfs_cli.sandbox import cgroup
from tests.cli.live import Live
from tests.support.mounting import needs_root

pytestmark = [pytest.mark.fuse, needs_root("control groups")]


def groups() -> list[Path]:
    return [*cgroup.ROOT.glob("cowfs-run-*"), *cgroup.ROOT.glob("*/cowfs-run-*")]


def test_processes_are_limited(live: Live) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait; echo done"
    assert live.cowfs("run", "ws", "--pids", "50", "--", "sh", "-c", script) == "done"
    limited = live.run("run", "ws", "--pids", "6", "--", "sh", "-c", script)
    assert "fork" in limited.err
    assert groups() == []


def test_memory_is_limited_and_the_daemon_lives(live: Live) -> None:
    """A string that doubles until the limit ends the program."""
    script = "x=0123456789; while :; do x=$x$x; done"
    began = time.monotonic()
    limited = live.run("run", "ws", "--memory", "64M", "--", "sh", "-c", script)
    assert limited.code in (137, 2), limited.err
    assert time.monotonic() - began < 30
    assert live.cowfs("run", "ws", "--memory", "64M", "--", "sh", "-c", "echo x > /f; cat /f") == "x"
    assert groups() == []


def test_writing_more_than_the_limit_does_not_hang(live: Live) -> None:
    """The pages of a mount count for who writes them; who serves the mount is in another group."""
    script = "n=0; while [ $n -lt 40 ]; do cat /bin/* > /big$n; n=$((n+1)); done; cat /big* > /bigger; echo done"
    assert live.cowfs("run", "ws", "--memory", "48M", "--", "sh", "-c", script) == "done"


def test_processors_are_limited() -> None:
    """The kernel says that it held the group back, which it never does without a limit."""
    for cpus, held_back in ((0.1, True), (None, False)):
        group = cgroup.Group(cgroup.Limits(cpus=cpus, pids=100), freezer=False)
        try:
            words = group.words(["sh", "-c", "n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done"])
            subprocess.run(words, check=True)
            found = [path.read_text() for path in cgroup.ROOT.glob("*/cowfs-run-*/cpu.stat")]
            found += [path.read_text() for path in cgroup.ROOT.glob("cowfs-run-*/cpu.stat")]
            throttled = [int(line.split()[1]) for text in found for line in text.splitlines() if "nr_throttled" in line]
            assert any(throttled) == held_back
        finally:
            group.close()
    assert groups() == []


def test_nonsense_is_refused(live: Live) -> None:
    for words in (("--memory", "x"), ("--pids", "0"), ("--cpus", "0"), ("--freeze",)):
        assert live.run("run", "ws", *words, "--", "true").code == 2
    assert groups() == []


def test_freezing_stops_and_goes_on(live: Live, tmp_path: Path) -> None:
    group = cgroup.Group(cgroup.Limits(), freezer=True)
    counter = tmp_path / "n"
    words = group.words(["sh", "-c", f"n=0; while :; do n=$((n+1)); echo $n > {counter}; done"])
    with subprocess.Popen(words) as program:
        try:
            while not counter.exists() or not counter.read_text():
                pass
            with group.frozen():
                before = counter.read_text()
                for _ in range(200):
                    assert counter.read_text() == before
            while counter.read_text() in (before, ""):
                pass
        finally:
            program.kill()
            program.wait()
            group.close()
    assert groups() == []
