"""What every scenario shares: a scratch directory, placement, repeated timing, and the JSON report."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from cowfs.engine import Engine

SPIN = """
print("ready", flush=True)
while True:
    sum(range(10_000))
"""
"""A program that merely keeps a CPU busy."""

REPOSITORY = Path(__file__).resolve().parent.parent
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_START_WRITE, _WAIT_WRITE_WAIT = 2, 7


def ids(prefix: str) -> str:
    """A new random id."""
    return f"{prefix}-{os.urandom(10).hex()}"


@contextmanager
def scratch(where: str | None = None) -> Iterator[Path]:
    """A directory that goes away again; below ``COWFS_BENCH_DIR`` or the usual temporary place."""
    with tempfile.TemporaryDirectory(prefix="cowfs-bench-", dir=where or os.environ.get("COWFS_BENCH_DIR")) as path:
        yield Path(path)


def open_store(path: Path) -> Engine:
    """A new, open store at ``path``."""
    Engine.create_store(path, time.time_ns, os.urandom(16))
    return Engine.open(path, time.time_ns, ids)


@contextmanager
def engine_at(path: Path) -> Iterator[Engine]:
    """A new store at ``path``, open in this process."""
    engine = open_store(path)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def placed(cpus: Sequence[int] | None) -> Iterator[None]:
    """Run this thread, and the processes it starts, on ``cpus`` alone; None: anywhere."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """For child processes: this checkout's packages, nobody's settings."""
    roots = (REPOSITORY, REPOSITORY / "daemon", REPOSITORY / "cli", REPOSITORY / "guest")
    own = {"PYTHONPATH": os.pathsep.join(map(str, roots)), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", **more}
    return {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR") if name in os.environ} | own


def run(*command: str | Path, **options: Any) -> None:
    """Run a program to its end, quietly. Raises CalledProcessError with what it said in its notes."""
    options.setdefault("env", environment())
    options.setdefault("stdout", subprocess.DEVNULL)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, **options)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command)
        error.add_note(done.stderr.decode(errors="replace"))
        raise error


def shell(script: str, where: Path, timeout_s: float | None = None, **more: str) -> None:
    """Run a shell script in ``where``, as a user of git whom nobody has configured; ``more``: environment.

    Raises CalledProcessError, and TimeoutExpired after ``timeout_s``.
    """
    home = {"HOME": "/nonexistent", "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b", "GIT_COMMITTER_NAME": "b"}
    env = environment(**home, GIT_COMMITTER_EMAIL="b@b", **more)
    run("sh", "-e", "-c", script, cwd=where, env=env, timeout=timeout_s)


def python(code: str, *arguments: object) -> list[str]:
    """The command line that runs ``code``."""
    return [sys.executable, "-c", code, *map(str, arguments)]


@contextmanager
def meanwhile(*commands: list[str]) -> Iterator[None]:
    """Programs that say when they are ready, and run until the end of the context."""
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, env=environment()) for each in commands]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
        assert all(process.poll() is None for process in running), "a program that was to run meanwhile ended"
    finally:
        for process in running:
            process.kill()
            process.communicate()


def write_back(where: Path) -> None:
    """Have every file below ``where`` written to its device, and the filesystem's own log, without a global sync."""
    paths = [
        path
        for directory, _, names in os.walk(where)
        for path in (os.path.join(directory, name) for name in names)
        if stat.S_ISREG(os.lstat(path).st_mode)  # else links, and an overlay's whiteouts
    ]
    for flags in (_START_WRITE, _WAIT_WRITE_WAIT):  # all are under way before the first is waited for
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            try:
                _libc.sync_file_range(fd, 0, 0, flags)
            finally:
                os.close(fd)
    if paths:
        fd = os.open(paths[-1], os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def drop_caches() -> None:
    """Make the kernel forget clean pages, names and inodes, of every filesystem. Needs root."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Series:
    """Named lists of seconds, filled in turn, so that all see the same moods of the machine."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[..., object], *arguments: Any, **options: Any) -> float:
        """Time ``call`` with its arguments once more under ``name``."""
        began = time.perf_counter()
        call(*arguments, **options)
        took = time.perf_counter() - began
        self.seconds.setdefault(name, []).append(took)
        return took

    def summaries(self) -> dict[str, dict[str, float]]:
        """A summary of each list."""
        return {name: summary(seconds) for name, seconds in self.seconds.items()}


class Appender:
    """The floor under every durable verb: append to a file and fdatasync."""

    def __init__(self, path: Path, size: int = 4096) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._data = bytes(size)

    def __call__(self) -> None:
        os.write(self._fd, self._data)
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median, p95, minimum and maximum, and how many runs."""
    ordered = sorted(seconds)
    return {
        "n": len(ordered),
        "median_ms": round(statistics.median(ordered) * 1000, 4),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000, 4),
        "min_ms": round(ordered[0] * 1000, 4),
        "max_ms": round(ordered[-1] * 1000, 4),
    }


def number(value: float) -> str:
    """Three significant digits, without exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else "0"


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process that is its own: pages of files do not count."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def disk_bytes(path: Path) -> int:
    """Bytes that the files below ``path`` occupy."""
    return sum(entry.lstat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file())


def machine() -> dict[str, Any]:
    """What was measured on; ``load`` is the load average when the report is made."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "affinity": sorted(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def report(scenario: str, results: dict[str, Any]) -> None:
    """Print the results as JSON, with the day (UTC) and the machine of measuring."""
    made = {"scenario": scenario, "measured": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine()}
    print(json.dumps(made | {"results": results}, indent=2))


def keep(scenario: str, path: Path | None, results: dict[str, Any]) -> None:
    """Write the report so far into the file, whole or not at all."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w") as file, redirect_stdout(file):
            report(scenario, results)
        part.rename(path)
