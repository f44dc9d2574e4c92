"""Size and company: a directory of a million files, a workspace of ten million, 64 programs at once, and neighbours.

``directory``: making, looking at, listing and removing so many files in one directory of a mount, and on the disk.
``workspace``: opening, listing and changing a workspace with so many files; memory of the process that serves it.
``parallel``: file operations a second of so many programs at once in one workspace, in one each, and on the disk.
``neighbours``: what a program waits for each of its file operations while a storm goes on elsewhere: in another
workspace or in a fork of its own, each served by another process (which is checked), and, as a floor, while a process
merely keeps a CPU busy.

With ``--into`` the results of the parts named by ``--only`` are merged into FILE, so that a long run can be cut in
pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import common, daemons, native
from cowfs.client.store import Store

PARTS = ("workspace", "neighbours", "parallel", "directory")
APART_SECONDS = 60.0
_DIRECTORY = """
import json, os, sys, time
where, count = sys.argv[1], int(sys.argv[2])
took = {}
def timed(name, work):
    began = time.perf_counter(); work(); took[name] = (time.perf_counter() - began) / count * 1e6
def make():
    os.mkdir(where)
    for n in range(count):
        os.close(os.open(f"{where}/file-{n}", os.O_CREAT | os.O_WRONLY | os.O_EXCL))
def look():
    for n in range(0, count, 100):
        os.stat(f"{where}/file-{n}")
        os.path.exists(f"{where}/none-{n}")
def entries():
    assert sum(1 for _ in os.scandir(where)) == count
def remove():
    for n in range(count):
        os.unlink(f"{where}/file-{n}")
    os.rmdir(where)
for name, work in ("create", make), ("look", look), ("list", entries), ("list_again", entries), ("unlink", remove):
    timed(name, work)
took["look"] *= 100 / 2
print(json.dumps(took))
"""
_OPERATIONS = """
import os, sys, time
where, seconds = sys.argv[1], float(sys.argv[2])
os.mkdir(where)
count, until = 0, time.monotonic() + seconds
while time.monotonic() < until:
    path = f"{where}/{count % 100}"
    with open(path, "wb") as file:
        file.write(b"x" * 1000)
    os.stat(path)
    with open(path, "rb") as file:
        file.read()
    os.unlink(path)
    count += 1
print(count * 4)
"""
_NEIGHBOUR = """
import json, os, sys, time
where, seconds = sys.argv[1], float(sys.argv[2])
os.makedirs(where, exist_ok=True)
took, until, n = [], time.monotonic() + seconds, 0
while time.monotonic() < until:
    n += 1
    began = time.perf_counter()
    with open(f"{where}/f", "wb") as file:
        file.write(b"x" * 1000)
    os.stat(f"{where}/none-{n}") if os.path.exists(f"{where}/none-{n}") else None
    os.unlink(f"{where}/f")
    took.append((time.perf_counter() - began) * 1e3)
    time.sleep(0.002)
print(json.dumps(took))
"""
_STORM = """
import os, sys
where = sys.argv[1]
os.makedirs(where, exist_ok=True)
print("ready", flush=True)
n = 0
while True:
    n += 1
    with open(f"{where}/{n % 1000}", "wb") as file:
        file.write(b"x" * 4096)
    os.stat(f"{where}/{n % 1000}")
"""


def python(code: str, *arguments: object) -> str:
    """What a program prints."""
    words = common.python(code, *arguments)
    return subprocess.run(words, stdout=subprocess.PIPE, env=common.environment(), check=True).stdout.decode()


def memory(client: Store) -> float:
    """Megabytes that are the workers' own."""
    found = 0
    for worker in client.daemon()["workers"]:
        fields = Path(f"/proc/{worker['pid']}/statm").read_text().split()
        found += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return round(found / 1e6, 1)


def directory(client: Store, plain: Path, files: int) -> dict[str, Any]:
    """Microseconds a file."""
    root = Path(client.create("directory").path)
    before = memory(client)
    measured = json.loads(python(_DIRECTORY, root / "d", files))
    return {
        "files": files, "cowfs_us": measured, "native_us": json.loads(python(_DIRECTORY, plain / "d", files)),
        "workers_mb": [before, memory(client)],
    }  # fmt: skip


def workspace(store: Path, files: int) -> dict[str, Any]:
    """Seconds, and megabytes of the workers."""
    name, took = f"n{files}", {}

    def timed(step: str, *words: str) -> None:
        began = time.perf_counter()
        common.run(*words)
        took[step] = round(time.perf_counter() - began, 3)

    with daemons.serving(store) as client:
        began = time.perf_counter()
        root = Path(client.mount(name))
        took["mount"] = round(time.perf_counter() - began, 3)
        mounted = memory(client)
        timed("find", "sh", "-c", f"find {root} -name none | wc -l")
        found = memory(client)
        timed("touch_1000", "sh", "-c", f"find {root} -type f | head -1000 | xargs touch")
        began = time.perf_counter()
        handle = client.workspace(name)
        made = handle.checkpoint("one").snapshot.id
        took["checkpoint"] = round(time.perf_counter() - began, 4)
        timed("touch_again", "sh", "-c", f"find {root} -type f | head -1000 | xargs touch")
        began = time.perf_counter()
        handle.restore(made)
        took["restore"] = round(time.perf_counter() - began, 4)
        daemons.settled(client)
        megabytes = {"mounted": mounted, "after_find": found, "at_the_end": memory(client)}
        return {"files": files, "seconds": took, "workers_mb": megabytes}


def parallel(client: Store, plain: Path, programs: int, seconds: float) -> dict[str, Any]:
    """Operations a second of all programs together."""
    one = Path(client.create("parallel").path)
    base = client.workspace("parallel").checkpoint("base").snapshot.id
    names = [f"each-{n}" for n in range(programs)]
    for name in names:
        client.fork(base, name)
    each = [Path(client.mount(name)) for name in names]
    places = {
        "cowfs_one_workspace": [one / f"p{n}" for n in range(programs)],
        "cowfs_one_each": [root / "p" for root in each],
        "native": [plain / f"p{n}" for n in range(programs)],
    }
    found = {}
    for name, wheres in places.items():
        running = [
            subprocess.Popen(
                common.python(_OPERATIONS, where, seconds), stdout=subprocess.PIPE, env=common.environment()
            )
            for where in wheres
        ]
        found[name] = round(sum(int(process.communicate()[0]) for process in running) / seconds)
    return {"programs": programs, "operations_per_second": found, "workers_mb": memory(client)}


def servers(client: Store) -> dict[str, int]:
    """Workspace -> the process that serves it."""
    return {name: int(worker["pid"]) for worker in client.daemon()["workers"] for name in worker["workspaces"]}


@contextmanager
def apart(client: Store, name: str, other: str) -> Iterator[tuple[Path, dict[str, int]]]:
    """``name`` mounted, from beginning to end in another process than ``other``; where, and who serves each.

    A second worker is only started when there is something for it, so it is tried until there is one. Raises
    TimeoutError, on a machine with one CPU say.
    """
    until = time.monotonic() + APART_SECONDS
    while True:
        daemons.settled(client)  # what is not settled is served where its parent is
        root, pids = Path(client.mount(name)), servers(client)
        if pids[name] != pids[other]:
            break
        client.umount(name)
        if time.monotonic() > until:
            raise TimeoutError(f"one process serves {name} and {other}: two workers need two CPUs")
        time.sleep(0.05)
    found = {key: pids[key] for key in (name, other)}
    yield root, found
    daemons.settled(client)
    assert {key: pid for key, pid in servers(client).items() if key in found} == found, "a workspace has moved"
    client.umount(name)


def neighbours(client: Store, turns: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of three file operations: the median of the turns' medians and of their 95th percentiles.

    ``workers``: the process that served the program's workspace, and that of the storm, in each turn.
    """
    root = Path(client.create("calm").path)
    (root / "file").write_bytes(b"x")
    base = client.workspace("calm").checkpoint("base").snapshot.id
    daemons.settled(client)
    client.fork(base, "fork")
    client.create("other")
    storms = {
        "alone": "", "storm_in_another_workspace": "other", "storm_in_its_fork": "fork", "cpu_busy": "",
    }  # fmt: skip
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in storms}
    workers: dict[str, list[list[int]]] = {name: [] for name, where in storms.items() if where}
    for _ in range(turns):
        for name, where in storms.items():
            with ExitStack() as stack:
                if where:
                    place, pids = stack.enter_context(apart(client, where, "calm"))
                    workers[name].append([pids["calm"], pids[where]])
                    stack.enter_context(common.meanwhile(common.python(_STORM, place / "storm")))
                elif name == "cpu_busy":
                    stack.enter_context(common.meanwhile(common.python(common.SPIN)))
                took = sorted(json.loads(python(_NEIGHBOUR, root / "n", seconds)))
            taken[name].append((statistics.median(took), took[len(took) * 95 // 100]))
    found: dict[str, Any] = {
        name: {
            "median_ms": round(statistics.median(each[0] for each in pairs), 3),
            "p95_ms": round(statistics.median(each[1] for each in pairs), 3),
            "n": len(pairs),
        }
        for name, pairs in taken.items()
    }
    for name, pids_of_turns in workers.items():
        found[name]["workers"] = pids_of_turns
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=int, default=1_000_000, help="files in one directory")
    parser.add_argument("--workspace", type=int, default=10_000_000, help="files in one workspace")
    parser.add_argument("--programs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=", ".join(PARTS))  # fmt: skip
    parser.add_argument("--into", type=Path, metavar="FILE", help="merge the results into this JSON file")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.into is not None and options.into.exists():
        results = json.loads(options.into.read_text())["results"]
    with common.scratch() as place:
        plain = place / "native"
        plain.mkdir()
        if "workspace" in options.only:
            daemons.make_store(place / "large", [options.workspace])
            results["workspace"] = workspace(place / "large", options.workspace)
        daemons.make_store(place / "store", [])
        with daemons.serving(place / "store") as client, native.noatime(plain) as disk:
            if "neighbours" in options.only:
                results["neighbours"] = neighbours(client, options.turns, options.seconds / 2)
            if "parallel" in options.only:
                results["parallel"] = parallel(client, disk, options.programs, options.seconds)
            if "directory" in options.only:
                results["directory"] = directory(client, disk, options.directory)
    common.keep("scale", options.into, results)
    common.report("scale", results)


if __name__ == "__main__":
    main()
