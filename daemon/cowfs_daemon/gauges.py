"""What a worker tells of itself, and how the supervisor makes one picture of all its processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

from cowfs.engine import Engine
from cowfs.errors import CowfsError
from cowfs.host import Host
from cowfs.usage import Shown
from cowfs_daemon import metrics
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.counts import BUCKETS
from cowfs_daemon.fuse.session import Session
from cowfs_daemon.pool import WorkerPool
from cowfs_daemon.remote import RemoteHost

OPERATIONS: Final[dict[int, str]] = {
    getattr(protocol, name): name.lower()
    for name in (
        "LOOKUP", "FORGET", "GETATTR", "SETATTR", "READLINK", "SYMLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR",
        "RENAME", "LINK", "OPEN", "READ", "WRITE", "STATFS", "RELEASE", "FSYNC", "SETXATTR", "GETXATTR",
        "LISTXATTR", "REMOVEXATTR", "FLUSH", "OPENDIR", "READDIR", "RELEASEDIR", "FSYNCDIR", "ACCESS", "CREATE",
        "INTERRUPT", "IOCTL", "BATCH_FORGET", "FALLOCATE", "READDIRPLUS", "RENAME2", "LSEEK", "COPY_FILE_RANGE",
        "SYNCFS", "TMPFILE", "STATX", "COPY_FILE_RANGE_64",
    )
}  # fmt: skip
"""Opcode -> how it is called in a metric; any other is ``other``."""

ANSWER_SECONDS = 2.0
"""How long a status or scrape waits for the workers."""

WORKERS_MAX = 256

_BOUNDS_S = tuple(2**power / 1e6 for power in range(BUCKETS - 1))

Told = dict[str, Any]
"""Counts of one worker: ``requests`` {operation: n}, ``times`` {operation: [seconds, buckets…]}, ``sums`` {metric: n},
``caches`` {cache: (hits, misses, bytes)}; the bytes of ``files``, which all processes share, are 0."""

CACHES: Final = ("raw", "nodes", "files")


class Tally:
    """The counts of a worker's sessions, those that have ended included."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._times: dict[int, list[float]] = {}
        self._paced: Counter[str] = Counter()

    def ended(self, session: Session) -> None:
        """A session will not be asked any more."""
        self._add(session, self._requests, self._times, self._paced)

    def _add(self, session: Session, requests: Counter[int], times: dict[int, list[float]], paced: Any) -> None:
        requests.update({opcode: count for opcode, count in enumerate(session.counts.requests) if count})
        for opcode, buckets in list(session.counts.times.items()):
            sums = times.setdefault(opcode, [0.0] * (BUCKETS + 1))
            for at, value in enumerate((session.counts.seconds.get(opcode, 0.0), *buckets)):
                sums[at] += value
        found = session.pacing.statistics()
        paced["cowfs_paced_requests_total"] += found.paced
        paced["cowfs_paced_seconds_total"] += found.paced_s
        paced["cowfs_refused_requests_total"] += found.refused

    def told(self, sessions: Iterable[Session], host: Host, caches: Any, files: Any) -> Told:
        """Everything a worker knows; ``caches``: its ReaderStatistics, ``files``: its WrittenStatistics."""
        requests, paced = Counter(self._requests), Counter(self._paced)
        times = {opcode: list(sums) for opcode, sums in self._times.items()}
        sums: Counter[str] = Counter()
        for session in sessions:
            self._add(session, requests, times, paced)
            found = session.statistics()
            sums["cowfs_paced_waiting"] += found.pacing.waiting
            sums["cowfs_open_files"] += found.opens
            sums["cowfs_known_inodes"] += found.known
        for workspace in host.statistics().values():
            sums["cowfs_known_inodes"] += workspace.view.known
            sums["cowfs_live_records"] += workspace.backlog.records
            sums["cowfs_live_bytes"] += workspace.backlog.size_bytes
            sums["cowfs_journal_records_total"] += workspace.journal.next_seq - 1
            sums["cowfs_unsynced_bytes"] += workspace.journal.unsynced
        blocks = (("raw", caches.raw), ("nodes", caches.nodes))
        return {
            "requests": _named(requests),
            "times": {OPERATIONS.get(opcode, "other"): tuple(found) for opcode, found in times.items()},
            "sums": {**sums, **paced},
            "caches": {
                **{name: (each.hits, each.misses, each.size_bytes) for name, each in blocks},
                "files": (*files, 0),
            },
        }


def _named(requests: Counter[int]) -> dict[str, int]:
    named: Counter[str] = Counter()
    for opcode, count in requests.items():
        named[OPERATIONS.get(opcode, "other")] += count
    return dict(named)


class Picture:
    """All figures of a daemon. ``lag_s``: how long there has been something to settle; ``mounts``: how many there are;
    ``resident``: name of a process -> its pid."""

    def __init__(
        self,
        engine: Engine,
        pool: WorkerPool,
        lag_s: Callable[[], float],
        mounts: Callable[[], int],
        processes: Callable[[], Iterable[tuple[str, int]]],
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._lag_s = lag_s
        self._mounts = mounts
        self._processes = processes
        self._shown = Shown(engine.store.shown)
        self._lock = threading.Lock()
        self._asked: dict[RemoteHost, Future[Told]] = {}
        self._threads = ThreadPoolExecutor(WORKERS_MAX, "cowfs-figures")

    def told(self) -> list[Told]:
        """What every worker says of itself; one that is being replaced, or does not answer, says nothing."""
        asked = {worker: self._ask(worker) for worker in self._pool.workers if worker.started}
        until = monotonic() + ANSWER_SECONDS
        found = []
        for answer in asked.values():
            with contextlib.suppress(CowfsError, TimeoutError):
                found.append(answer.result(max(until - monotonic(), 0)))
        return found

    def _ask(self, worker: RemoteHost) -> Future[Told]:
        """One question at a time: a worker that hangs must not hold a thread for each scrape."""
        with self._lock:
            answer = self._asked.get(worker)
            if answer is None or answer.done():
                answer = self._asked[worker] = self._threads.submit(worker.call, "figures")
            return answer

    def samples(self) -> Iterator[metrics.Sample]:
        """Everything but the verbs."""
        told = self.told()
        yield "cowfs_workers", {}, len(told)
        yield "cowfs_worker_restarts_total", {}, self._pool.restarts
        for name, pid in self._processes():
            with contextlib.suppress(OSError):
                yield "cowfs_process_resident_bytes", {"process": name, "pid": str(pid)}, _resident_bytes(pid)
        yield from _workers(told)
        for name, counts in self._caches(told).items():
            for family, count in zip(_CACHE_FAMILIES, counts, strict=True):
                yield family, {"cache": name}, count
        yield from self._store()

    def _caches(self, told: Iterable[Told]) -> dict[str, list[int]]:
        """Hits, misses and bytes of each cache, of all workers."""
        caches = {name: [0, 0, 0] for name in CACHES}
        for each in told:
            for name, counts in each["caches"].items():
                caches[name] = [a + b for a, b in zip(caches[name], counts, strict=True)]
        caches["files"][2] = self._shown.size_bytes()
        return caches

    def summary(self) -> dict[str, Any]:
        """What ``daemon status`` shows of it: ``lag`` and ``cache``."""
        sums: Counter[str] = Counter()
        told = self.told()
        for each in told:
            sums.update(each["sums"])
        caches = {
            name: dict(zip(("hits", "misses", "bytes"), counts, strict=True))
            for name, counts in self._caches(told).items()
        }
        lag = {
            "seconds": round(self._lag_s(), 3),
            "records": sums["cowfs_live_records"],
            "bytes": sums["cowfs_live_bytes"],
            "waiting": sums["cowfs_paced_waiting"],
            "paced": sums["cowfs_paced_requests_total"],
            "refused": sums["cowfs_refused_requests_total"],
        }
        return {"lag": lag, "cache": caches}

    def _store(self) -> Iterator[metrics.Sample]:
        engine = self._engine
        yield "cowfs_workspaces", {}, len(engine.catalog.workspaces)
        yield "cowfs_snapshots", {}, len(engine.catalog.snapshots)
        yield "cowfs_mounts", {}, self._mounts()
        yield "cowfs_unsettled_layers", {}, len(engine.unsettled())
        yield "cowfs_settle_lag_seconds", {}, self._lag_s()
        settlers = [each.statistics() for each in (engine.settler, engine.jobs.importer)]
        index = engine.index.statistics()
        yield "cowfs_settle_jobs_total", {}, sum(each.jobs for each in settlers)
        yield "cowfs_settle_failures_total", {}, sum(each.failed for each in settlers)
        yield "cowfs_blocks", {}, index.blocks
        yield "cowfs_segments", {}, index.segments
        yield "cowfs_stored_bytes", {}, index.stored_bytes
        yield "cowfs_journal_bytes", {}, _journal_bytes(engine)
        yield "cowfs_free_bytes", {}, engine.reserve.space()[0]
        yield "cowfs_gc_blocks_total", {}, engine.collector.removed_blocks
        yield "cowfs_gc_freed_bytes_total", {}, engine.collector.freed_bytes


def _journal_bytes(engine: Engine) -> int:
    size = 0
    for path in engine.store.journals.glob("*/*.journal"):
        with contextlib.suppress(FileNotFoundError):  # it has just been settled
            size += path.stat().st_size
    return size


def _workers(told: list[Told]) -> Iterator[metrics.Sample]:
    requests: Counter[str] = Counter()
    sums: Counter[str] = Counter(dict.fromkeys(_SUMS, 0))
    times: dict[str, list[float]] = {}
    for each in told:
        requests.update(each["requests"])
        sums.update(each["sums"])
        for name, found in each["times"].items():
            times[name] = [a + b for a, b in zip(times.get(name, [0.0] * len(found)), found, strict=True)]
    for name, count in sorted(requests.items()):
        yield "cowfs_requests_total", {"operation": name}, count
    for name, (seconds, *buckets) in sorted(times.items()):
        counts = [int(count) for count in buckets]
        yield from metrics.histogram("cowfs_request_seconds", {"operation": name}, counts, _BOUNDS_S, seconds)
    for name, value in sums.items():
        yield name, {}, value


_CACHE_FAMILIES = ("cowfs_cache_hits_total", "cowfs_cache_misses_total", "cowfs_cache_bytes")
_SUMS = (
    "cowfs_paced_requests_total", "cowfs_paced_seconds_total", "cowfs_paced_waiting", "cowfs_refused_requests_total",
    "cowfs_open_files", "cowfs_known_inodes", "cowfs_live_records", "cowfs_live_bytes", "cowfs_journal_records_total",
    "cowfs_unsynced_bytes",
)  # fmt: skip


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
