"""What operators use: metrics, log, unit, doctor, uninstall; on a real daemon."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.client.place import connect_socket
from cowfs_daemon.metrics import METRICS
from tests.cli.live import Live
from tests.support.mounting import as_others

DOCS = Path(__file__).parents[2] / "docs"
LOCKS = {"start.lock", "keeper.lock", "workers.lock"}
SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$')


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """An empty store; its daemon ends with the test."""
    made = Live(tmp_path / "store")
    made.cowfs("init")
    try:
        yield made
    finally:
        made.end()
    assert made.json("fsck")["clean"]
    made.end()
    assert made.mounts() == []


def eventually(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, what
        threading.Event().wait(0.02)


def scrape(live: Live) -> tuple[str, dict[str, float]]:
    """(content type, series -> value) of a scrape; every line is checked."""
    connection = http.client.HTTPConnection("cowfs")
    connection.sock = connect_socket(str(live.store))
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    found: dict[str, float] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# "):
            kind, family, rest = line[2:].split(" ", 2)
            assert METRICS[family][("TYPE", "HELP").index(kind)] == rest
            continue
        match = SAMPLE.match(line)
        assert match, line
        assert match[1].startswith(family)
        series = line.rsplit(" ", 1)[0]
        assert series not in found, f"{series} twice"
        found[series] = float(match[3])
    return str(answer.headers["content-type"]), found


def of(found: dict[str, float], name: str) -> float:
    return sum(value for series, value in found.items() if series.split("{")[0] == name)


def test_metrics_count_what_happens(live: Live) -> None:
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws"))
    kind, before = scrape(live)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    for number in range(100):
        (path / f"f{number}").write_bytes(b"x" * 100)
    live.cowfs("checkpoint", "ws")
    assert live.run("fork", "ws@nothing", "x").code != 0
    live.cowfs("fork", "ws", "try", "--count", "3")
    _, after = scrape(live)
    assert after['cowfs_requests_total{operation="create"}'] >= 100
    assert after['cowfs_requests_total{operation="write"}'] >= 100
    timed = sum(value for series, value in after.items() if series.startswith("cowfs_request_seconds_count"))
    assert 1 <= timed <= of(after, "cowfs_requests_total") / 32
    assert after['cowfs_verb_seconds_count{verb="checkpoint"}'] == 1
    assert after['cowfs_verb_seconds_bucket{verb="checkpoint",le="+Inf"}'] == 1
    assert after['cowfs_verb_seconds_count{verb="fork"}'] == 2
    assert after['cowfs_verb_failures_total{verb="fork",code="not_found"}'] == 1
    assert after["cowfs_journal_records_total"] >= before["cowfs_journal_records_total"] + 200
    assert (after["cowfs_workspaces"], after["cowfs_mounts"], after["cowfs_workers"]) == (4, 1, 1)
    eventually(lambda: of(scrape(live)[1], "cowfs_unsettled_layers") == 0, "everything settles")
    assert scrape(live)[1]["cowfs_settle_lag_seconds"] == 0
    worker = live.json("daemon", "status")["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: of(scrape(live)[1], "cowfs_worker_restarts_total") == 1, "the restart is counted")


def test_every_metric_is_documented_and_every_documented_one_exists(live: Live) -> None:
    documented = set(re.findall(r"^\| `(cowfs_[a-z_]+)`", (DOCS / "operations.md").read_text(), re.MULTILINE))
    assert documented == set(METRICS)
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws"))
    live.run("restore", "ws", "@nothing")
    for number in range(100):
        (path / f"f{number}").touch()
    found = {series.split("{")[0] for series in scrape(live)[1]}
    shown = {name for name in METRICS if name in found or f"{name}_bucket" in found}
    assert shown == set(METRICS), "each is there as soon as there is something to count"


def test_status_shows_lag_and_caches(live: Live) -> None:
    live.cowfs("create", "ws")
    (Path(live.cowfs("path", "ws")) / "f").write_bytes(b"x")
    status = live.json("daemon", "status")
    assert status["lag"]["records"] >= 2
    assert (status["lag"]["waiting"], status["lag"]["refused"]) == (0, 0)
    assert set(status["cache"]) == {"raw", "nodes", "files"}
    text = live.cowfs("daemon", "status")
    for word in ("lag ", "pressure ", "cache "):
        assert word in text


def test_a_worker_that_hangs_holds_up_no_status(live: Live) -> None:
    live.cowfs("create", "ws")
    worker = live.json("daemon", "status")["workers"][0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert live.json("daemon", "status")["workers"][0]["pid"] == worker
        assert scrape(live)[1]["cowfs_workers"] == 0
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(lambda: scrape(live)[1]["cowfs_workers"] == 1, "it answers again")


def test_the_log_is_json_and_can_be_read(live: Live) -> None:
    live.cowfs("create", "ws")
    live.cowfs("path", "ws")
    worker = live.json("daemon", "status")["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: "took over" in live.log(), "another worker")
    entries = [json.loads(line) for line in live.cowfs("daemon", "log", "--json").splitlines()]
    for entry in entries:
        assert {"time", "level", "process", "pid", "logger", "event"} <= set(entry)
    assert {"supervisor", "worker"} <= {entry["process"] for entry in entries}
    assert any(entry["event"].startswith(f"worker {worker} ended by itself") for entry in entries)
    (about,) = [json.loads(line) for line in live.cowfs("daemon", "log", "--json", "--workspace", "ws").splitlines()]
    assert "took over" in about["event"]
    assert live.cowfs("daemon", "log", "-n", "1").count("\n") == 0
    assert "ended by itself" in live.cowfs("doctor")


def test_the_log_can_be_text(live: Live) -> None:
    live.cowfs("daemon", "start", "--log-format", "text")
    live.cowfs("create", "ws")
    live.cowfs("path", "ws")
    os.kill(live.json("daemon", "status")["workers"][0]["pid"], signal.SIGKILL)
    eventually(lambda: "took over" in live.log(), "another worker")
    assert not any(line.startswith("{") for line in live.log().splitlines())
    assert "took over" in live.cowfs("daemon", "log")


def test_the_log_is_followed_over_a_rotation(live: Live) -> None:
    live.cowfs("list")
    log = live.store / "daemon" / "log"
    log.touch()
    with subprocess.Popen(
        live.words("daemon", "log", "-f", "-n", "0", "--json"), env=live.env, stdout=subprocess.PIPE, text=True
    ) as reader:
        try:
            assert reader.stdout is not None
            numbers = iter(range(1000))

            def next_line() -> Any:
                """Log until the reader has said something: when it began is not to be seen."""
                assert reader.stdout is not None
                os.set_blocking(reader.stdout.fileno(), False)
                line = ""
                until = time.monotonic() + 30
                while not line and time.monotonic() < until:
                    with log.open("a") as file:
                        file.write(json.dumps({"event": f"number {next(numbers)}"}) + "\n")
                    threading.Event().wait(0.1)
                    line = reader.stdout.readline()
                return json.loads(line)

            first = next_line()
            log.rename(log.with_name("log.1"))
            log.write_text('{"event": "the new file"}\n')
            eventually(lambda: "the new file" in (reader.stdout.readline() if reader.stdout else ""), "the new file")
            assert first["event"].startswith("number")
        finally:
            reader.kill()


def test_the_unit_is_one_that_systemd_takes(live: Live, tmp_path: Path) -> None:
    unit = live.cowfs("daemon", "unit")
    assert f"daemon run --store {live.store}" in unit
    for line in ("Type=notify", "FileDescriptorStoreMax=", "KillMode=mixed", "Delegate=yes", "OOMScoreAdjust=-900"):
        assert line in unit
    assert live.json("daemon", "unit", "--name", "other")["name"] == "other.service"
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "cowfs.service"
    path.write_text(unit)
    done = subprocess.run([verify, "verify", str(path)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "cowfs.service" in line]
    # Older ones do not know yet that descriptors can be kept over a stop.
    assert [line for line in complaints if "FileDescriptorStorePreserve" not in line] == []
    assert done.returncode == 0


def test_uninstall_leaves_the_store_and_nothing_else(live: Live) -> None:
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws"))
    (path / "f").write_bytes(b"kept")
    with (path / "f").open():
        assert live.run("daemon", "uninstall").code == 5
        assert (path / "f").read_bytes() == b"kept"
    said = live.json("daemon", "uninstall")
    assert any("daemon, pid" in each for each in said["removed"])
    assert str(live.store) in said["left"][0]
    assert live.mounts() == []
    assert not path.parent.exists()
    assert {each.name for each in (live.store / "daemon").iterdir()} <= {"log", "log.lock", "mounts.json", *LOCKS}
    assert live.run("daemon", "status").code == 3
    assert live.json("daemon", "uninstall")["removed"] == []
    assert Path(live.cowfs("path", "ws")).joinpath("f").read_bytes() == b"kept"


def test_uninstall_and_others_who_start_the_daemon_again(live: Live) -> None:
    live.cowfs("create", "ws")
    live.cowfs("path", "ws")
    daemon = live.store / "daemon"
    locks = {name: (daemon / name).stat().st_ino for name in LOCKS}
    done = threading.Event()
    failures: list[str] = []

    def ask() -> None:
        while not done.is_set():
            listed = live.run("list")
            if listed.code or "ws" not in listed.out:
                failures.append(listed.out + listed.err)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        uninstalled = [live.run("daemon", "uninstall") for _ in range(2)]
    finally:
        done.set()
        asking.join()
    assert [(each.code, each.err) for each in uninstalled] == [(0, "")] * 2
    assert failures == []
    # Who holds a lock that has been unlinked, and who makes it anew, hold two.
    assert {name: (daemon / name).stat().st_ino for name in LOCKS} == locks


def test_uninstall_removes_no_files_from_where_mounts_are(live: Live) -> None:
    live.cowfs("create", "ws")
    place = Path(live.cowfs("path", "ws"))
    live.cowfs("daemon", "stop")
    place.mkdir(parents=True, exist_ok=True)
    file = place / "of-a-workspace-that-was-mounted-just-now"
    file.touch()
    try:
        said = live.json("daemon", "uninstall")
        assert file.exists()
        assert any(str(place.parent) in each for each in said["left"])
    finally:
        file.unlink()
        place.rmdir()


def test_uninstall_refuses_when_a_daemon_runs_that_does_not_answer(live: Live) -> None:
    live.cowfs("list")
    sock = live.store / "daemon" / "sock"
    sock.rename(sock.with_name("elsewhere"))
    try:
        refused = live.run("daemon", "uninstall")
        assert (refused.code, "does not answer" in refused.err) == (5, True)
        assert (sock.parent / "keeper.lock").exists()
    finally:
        sock.with_name("elsewhere").rename(sock)


@as_others
def test_doctor_names_limits_and_explains_who_may_not(live: Live) -> None:
    live.cowfs("list")
    found = {each["check"]: each for each in live.json("doctor")}
    for check in (
        "kernel features",
        "descriptors",
        "mounts",
        "inotify",
        "cgroup",
        "filesystem",
        "block index",
        "settling",
    ):
        assert found[check]["ok"], found[check]
        assert found[check]["detail"]
    live.cowfs("daemon", "stop", "--force")
    live.store.chmod(0o700)
    nobody = live.run_as_nobody("doctor", "--json")
    said = {each["check"]: each for each in json.loads(nobody.out)}
    assert nobody.code == 1
    assert not said["store"]["ok"]
    assert "user 65534" in said["store"]["detail"]
    assert said["store"]["hint"]
