"""Figures for Prometheus, in its text format 0.0.4, and the counters that the supervisor keeps for them.

Written by hand: the official client would cost 40 ms of start-up and a file of shared memory per process, while every
figure of a worker comes here through one call anyway.

``METRICS`` lists every family; what is not in it cannot be rendered.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

METRICS: Final[dict[str, tuple[str, str]]] = {
    "cowfs_workers": ("gauge", "Worker processes that answer."),
    "cowfs_worker_restarts_total": ("counter", "Workers that ended by themselves and were replaced."),
    "cowfs_process_resident_bytes": ("gauge", "Memory of a process of the daemon that is its own."),
    "cowfs_workspaces": ("gauge", "Workspaces in the store."),
    "cowfs_snapshots": ("gauge", "Snapshots in the store."),
    "cowfs_mounts": ("gauge", "Mounted workspaces and snapshots."),
    "cowfs_requests_total": ("counter", "Requests of the kernel that were answered, by operation."),
    "cowfs_request_seconds": ("histogram", "From reading a request to its answer; one request in 64 is timed."),
    "cowfs_paced_requests_total": ("counter", "Requests that had to wait because settling lagged behind."),
    "cowfs_paced_seconds_total": ("counter", "How long they waited together."),
    "cowfs_paced_waiting": ("gauge", "Requests that wait for that reason now."),
    "cowfs_refused_requests_total": ("counter", "Requests refused with ENOSPC because nothing is settled any more."),
    "cowfs_open_files": ("gauge", "Open files in all mounts."),
    "cowfs_known_inodes": ("gauge", "Inodes in memory that are resolved, or that the kernel knows."),
    "cowfs_live_records": ("gauge", "Journal records of live layers and of unsettled ones below them."),
    "cowfs_live_bytes": ("gauge", "Bytes of these records."),
    "cowfs_journal_records_total": ("counter", "Records that open workspaces have written since they were made."),
    "cowfs_unsynced_bytes": ("gauge", "Journal bytes that are not being written to disk yet."),
    "cowfs_unsettled_layers": ("gauge", "Frozen layers without a root."),
    "cowfs_settle_lag_seconds": ("gauge", "How long there has been something to settle; 0 when there is nothing."),
    "cowfs_settle_jobs_total": ("counter", "Jobs that the settlers have done, imports too."),
    "cowfs_settle_failures_total": ("counter", "Jobs of the settlers that ended by an error or their death."),
    "cowfs_verb_seconds": ("histogram", "Calls of a verb, by verb."),
    "cowfs_verb_failures_total": ("counter", "Calls of a verb that failed, by verb and code of the error."),
    "cowfs_cache_hits_total": (
        "counter",
        "Blocks found in a worker's cache of raw or tree blocks; files found written out.",
    ),
    "cowfs_cache_misses_total": ("counter", "Blocks, and files of read-only mounts, that were not."),
    "cowfs_cache_bytes": ("gauge", "Bytes in these caches, of all workers, and on disk of files written out."),
    "cowfs_blocks": ("gauge", "Blocks in the store."),
    "cowfs_segments": ("gauge", "Segment files that hold them."),
    "cowfs_stored_bytes": ("gauge", "Bytes of block records."),
    "cowfs_journal_bytes": ("gauge", "Bytes of journal files."),
    "cowfs_free_bytes": ("gauge", "Free bytes on the filesystem of the store."),
    "cowfs_gc_blocks_total": ("counter", "Blocks that garbage collection removed."),
    "cowfs_gc_freed_bytes_total": ("counter", "Bytes of files that it gave back."),
    "cowfs_listeners": ("gauge", "Clients that listen to events."),
    "cowfs_listeners_cut_total": ("counter", "Clients cut off because they left 1,000 events unread."),
}
"""Family -> (type, help)."""

VERB_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
VERBS: Final = frozenset(
    ("create", "import_tree", "checkpoint", "restore", "undo", "fork", "diff", "rename", "label", "remove", "collect")
)
"""What is timed."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
"""(family, labels, value)."""


class VerbTimes:
    """How often verbs were called, how long they took, how they failed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()

    def took(self, verb: str, seconds: float, code: str = "") -> None:
        """A call ended; ``code``: of the error, if it failed. What is no verb is not counted."""
        if verb not in VERBS:
            return
        with self._lock:
            buckets = self._buckets.setdefault(verb, [0] * (len(VERB_BOUNDS_S) + 1))
            buckets[next((at for at, bound in enumerate(VERB_BOUNDS_S) if seconds <= bound), len(VERB_BOUNDS_S))] += 1
            self._seconds[verb] += seconds  # type: ignore[assignment]
            if code:
                self._failures[verb, code] += 1

    def samples(self) -> Iterator[Sample]:
        """Everything counted."""
        with self._lock:
            buckets, failures = {verb: list(found) for verb, found in self._buckets.items()}, dict(self._failures)
            seconds = dict(self._seconds)
        for verb, found in buckets.items():
            yield from histogram("cowfs_verb_seconds", {"verb": verb}, found, VERB_BOUNDS_S, seconds[verb])
        for (verb, code), count in failures.items():
            yield "cowfs_verb_failures_total", {"verb": verb, "code": code}, count


def histogram(
    name: str, labels: Labels, buckets: Iterable[int], bounds: Iterable[float], total_s: float
) -> Iterator[Sample]:
    """The series of one histogram; ``buckets`` has one more count than ``bounds``, in seconds, are."""
    count = 0
    for bound, found in zip((*map(repr, bounds), "+Inf"), buckets, strict=True):
        count += found
        yield f"{name}_bucket", {**labels, "le": bound}, count
    yield f"{name}_sum", labels, total_s
    yield f"{name}_count", labels, count


def render(samples: Iterable[Sample]) -> str:
    """The text; series of a family stand together. Raises KeyError for one that is not in ``METRICS``."""
    families: dict[str, list[str]] = {}
    for name, labels, value in samples:
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        shown = repr(round(value, 9)) if isinstance(value, float) else str(value)
        families.setdefault(_family(name), []).append(f"{name}{{{text}}} {shown}" if text else f"{name} {shown}")
    lines: list[str] = []
    for family, series in families.items():
        kind, about = METRICS[family]
        lines += [f"# HELP {family} {about}", f"# TYPE {family} {kind}", *series]
    return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    if name in METRICS:
        return name
    for end in ("_bucket", "_sum", "_count"):
        if METRICS.get(name.removesuffix(end), ("", ""))[0] == "histogram":
            return name.removesuffix(end)
    raise KeyError(name)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
