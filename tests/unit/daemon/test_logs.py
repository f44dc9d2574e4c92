"""A log that several processes write: no line is torn or lost, and it does not grow for ever."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from cowfs_daemon.logs import KEPT, JsonFormatter, SharedFile

WRITER = """
import logging, sys
from cowfs_daemon.logs import JsonFormatter, SharedFile
log = logging.getLogger("t")
log.setLevel(logging.INFO)
handler = SharedFile(sys.argv[1], int(sys.argv[2]))
handler.setFormatter(JsonFormatter("writer"))
log.addHandler(handler)
for number in range(int(sys.argv[3])):
    log.info("%s %d", sys.argv[4], number)
"""


def write(path: Path, limit: int, count: int, processes: int) -> list[str]:
    """Every line in the files, the oldest first."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(limit), str(count), f"w{number}"], env=environment
        )
        for number in range(processes)
    ]
    assert [process.wait(60) for process in started] == [0] * processes
    files = [*(path.with_name(f"log.{number}") for number in range(KEPT, 0, -1)), path]
    return [line for file in files if file.exists() for line in file.read_text().splitlines()]


def test_no_line_of_several_processes_is_lost_or_torn(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in write(tmp_path / "log", 60_000, 300, 4)]
    assert (tmp_path / "log.1").exists()
    for writer in range(4):
        assert [entry["event"] for entry in lines if entry["event"].startswith(f"w{writer} ")] == [
            f"w{writer} {number}" for number in range(300)
        ]


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "log", 2_000, 300, 2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"log", "log.lock", *(f"log.{number}" for number in range(1, KEPT + 1))}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000 * (KEPT + 1)


def test_a_line_says_where_it_comes_from(tmp_path: Path) -> None:
    handler = SharedFile(str(tmp_path / "log"))
    handler.setFormatter(JsonFormatter("worker"))
    try:
        raise ValueError("why\nnot")
    except ValueError:
        made = logging.getLogger("cowfs.t").makeRecord(
            "cowfs.t", logging.ERROR, "f", 1, "it %s", ("failed\n",), sys.exc_info(), extra={"workspace": "ws"}
        )
    handler.emit(made)
    handler.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["process"], entry["workspace"]) == ("error", "worker", "ws")
    assert entry["event"] == "it failed\n"
    assert "ValueError: why" in entry["traceback"]
    assert entry["time"].endswith("Z")
