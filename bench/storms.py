"""CPU time of the process that serves a mount, for each request of a storm: system calls, interpreter and all.

What grew in utime + stime of the daemon's workers (``/proc/PID/stat``), divided by what grew in the requests that they
count (``/metrics``), while a program does one thing to many files. The whole daemon and the program share one CPU. Each
storm is made so that the kernel sends one kind of request and hardly any other; ``requests_each`` says which it sent.
``cpu_us`` is of a request, ``own_us`` of a file, less the GETATTRs of its directory, which no program can prevent:

``create``: files whose names the kernel knows not to exist; they stay open. ``getattr``: statx(2) that insists on an
answer. ``write_4k``: one file, one piece after the other. ``lookup``: stat of files at rest, after a mount by another
daemon. ``unlink``: all of them.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bench import common
from bench.systems import PLACEMENTS, cowfs_system
from cowfs import connect
from cowfs.client.wire import Wire

_COUNTED = re.compile(r'^cowfs_requests_total\{operation="(\w+)"\} (\d+)$', re.MULTILINE)
_BEGIN = """
import ctypes, os, resource, sys
directory, count = sys.argv[1], int(sys.argv[2])
paths = [f"{directory}/d{n // 3}/f{n}" for n in range(count)]  # of few in a directory each is asked for
def told(line):
    print(line, flush=True)
    sys.stdin.readline()
"""
_NO_NAMES = """
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
os.mkdir(directory)
for path in paths[::3]: os.mkdir(os.path.dirname(path))
assert not any(os.path.exists(path) for path in paths)
"""
_DIRECTORIES = "for path in paths[::3]: os.stat(os.path.dirname(path))"
_STATX = f"""{_DIRECTORIES}
statx, AT_FDCWD, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS = ctypes.CDLL(None).statx, -100, 0x2000, 0x7FF
wanted = [STATX_BASIC_STATS, ctypes.create_string_buffer(256)]
encoded = [os.fsencode(path) for path in paths]
"""
_PAGE = "fd, page = os.open(paths[0], os.O_WRONLY), bytes(4096)"
STORMS = {
    "create": (_NO_NAMES, "for path in paths: os.open(path, os.O_WRONLY | os.O_CREAT)"),
    "getattr": (_STATX, "for path in encoded: assert not statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, *wanted)"),
    "write_4k": (_PAGE, "for n in range(count): os.pwrite(fd, page, 4096 * n)"),
    "lookup": (_DIRECTORIES, "for path in paths: os.stat(path)"),
    "unlink": ("", "for path in paths: os.unlink(path)"),
}  # fmt: skip
"""Name -> what comes before it, and the storm. In the order in which one turn needs them; before ``lookup`` everything
is settled and mounted anew."""


def requests(store: Path) -> Counter[str]:
    """Operation -> how many requests of it the workers have got."""
    text = b"".join(Wire(str(store)).stream("/metrics")).decode()
    return Counter({name: int(count) for name, count in _COUNTED.findall(text)})


def workers(store: Path) -> list[int]:
    """The processes that serve files."""
    with connect(store, start=False) as client:
        return [int(worker["pid"]) for worker in client.daemon()["workers"]]


def cpu_us(pids: list[int]) -> float:
    """Microseconds of CPU that processes have taken, threads that have ended included."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def storm(store: Path, directory: Path, name: str, count: int) -> tuple[float, Counter[str]]:
    """Have one storm; the workers' CPU in microseconds, and the requests that they got."""
    prepare, work = STORMS[name]
    code = "\n".join([_BEGIN, prepare, "told('ready')", work, "told('done')"])
    words = [sys.executable, "-c", code, str(directory), str(count)]
    pipe, environment = subprocess.PIPE, common.environment()
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, env=environment) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        before, pids = requests(store), workers(store)
        began = cpu_us(pids)
        program.stdin.write(b"\n")
        program.stdin.flush()
        assert program.stdout.readline() == b"done\n"
        took = cpu_us(pids) - began
        sent = requests(store) - before
    return took, sent


def measure(directory: Path, count: int, turns: int) -> dict[str, Any]:
    """Storm -> ``cpu_us`` and ``own_us``, medians of the turns, and ``requests_each``: operation -> how many a file."""
    each: dict[str, list[float]] = {name: [] for name in STORMS}
    got: dict[str, Counter[str]] = {name: Counter() for name in STORMS}
    store, cpus = directory / "storms" / "store", PLACEMENTS["pinned"]
    with cowfs_system(directory / "storms", cpus) as system, common.placed(cpus):
        for turn in range(turns):
            for name in STORMS:
                if name == "lookup":
                    system.make_cold()
                took, sent = storm(store, system.root / f"turn-{turn}", name, count)
                each[name].append(took / count)
                got[name] += sent
    return summed_up(
        {name: statistics.median(taken) for name, taken in each.items()},
        {name: {operation: n / count / turns for operation, n in sent.items()} for name, sent in got.items()},
    )


def summed_up(each_us: dict[str, float], sent: dict[str, dict[str, float]]) -> dict[str, Any]:
    """From the CPU of a file, and the requests of a file, in each storm."""
    getattr_us = each_us["getattr"] / sum(sent["getattr"].values())
    return {
        name: {
            "cpu_us": round(took / sum(sent[name].values()), 2),
            "own_us": round(took - (getattr_us * sent[name].get("getattr", 0) if name != "getattr" else 0), 2),
            "requests_each": {operation: round(n, 3) for operation, n in sent[name].items()},
        }
        for name, took in each_us.items()
    }
