"""What the figures should be, and whether they are: one function from the JSON to verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.common import number

SMALL, LARGE = "1000", "1000000"
RATIO_RUNS_MIN = 30
VERBS = ("fork", "checkpoint_durable", "checkpoint_clean", "restore_100_changes")
Results = dict[str, Any]

WORKLOADS: dict[str, tuple[tuple[str, ...], float]] = {
    "git status, warm": (("git_status_warm",), 1.25),
    "imports, warm": (("import_warm",), 1.25),
    "grep -r, warm": (("grep_warm",), 1.05),
    "a large file read through, warm": (("fio_read_warm_1",), 1.05),
    "a large file read through, cold (70 % of the speed)": (("fio_read_cold_1",), 1 / 0.7),
    "a large file written and synced (50 % of the speed)": (("fio_write_1",), 1 / 0.5),
    "git add and commit": (("git_add", "git_commit"), 1.6),
    "untar of 36,000 files": (("untar",), 1.5),
    "rm -rf of 36,000 files": (("rm",), 1.5),
}
"""What a workload is called -> its steps, and how long they may take together, in times of the disk itself."""

REQUESTS = {"getattr": 12, "lookup": 12, "create": 20, "write_4k": 20}
"""Request -> microseconds of CPU that it may take at the median."""

ONCE = 1.1
"""How many times as much counts as "grows once"."""

METADATA = ("untar", "find", "rm", "git_status_first", "git_status_warm",
            "storm_create", "storm_stat", "storm_stat_cold", "storm_unlink")  # fmt: skip
"""Steps of workloads at which cowfs is never to be slower than bindfs."""

PLACES = {"pinned": "one CPU", "free": "unpinned"}


@dataclass(frozen=True, slots=True)
class Judged:
    """One aim. ``verdict``: met, **missed**, or not measured; ``scenario``: whose figures decide."""

    scenario: str
    text: str
    limit_text: str
    measured: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Aim:
    """``measure`` gives the figure of ``scenario``, in ``unit``; it raises KeyError when the results do not have it."""

    scenario: str
    text: str
    limit: float
    unit: str
    measure: Callable[[Results], float]


def _engine(verb: str, files: str = LARGE) -> Callable[[Results], float]:
    return lambda results: float(results["verbs"]["files"][files][verb]["median_ms"])


def _ratio(scenario: Callable[[Results], Results], verb: str) -> Callable[[Results], float]:
    def measure(results: Results) -> float:
        small, large = (scenario(results)[files][verb] for files in (SMALL, LARGE))
        if min(small["n"], large["n"]) < RATIO_RUNS_MIN:
            raise KeyError("too few runs")
        return float(large["median_ms"] / small["median_ms"])

    return measure


def _over_floor(verb: str, floor: str) -> Callable[[Results], float]:
    def measure(results: Results) -> float:
        return float(_engine(verb)(results) / results["verbs"]["floor"][floor]["median_ms"])

    return measure


def _api(results: Results) -> Results:
    files: Results = results["api"]["writers"]["0"]["files"]
    return files


def _api_ms(verb: str) -> Callable[[Results], float]:
    return lambda results: float(_api(results)[LARGE][verb]["median_ms"])


def _in_engine(results: Results) -> Results:
    files: Results = results["verbs"]["files"]
    return files


def _live(results: Results) -> float:
    return float(results["live"]["files"]["100000"]["0"]["restore_100_changes"]["median_ms"])


def _idle(scenario: str, key: str) -> Callable[[Results], float]:
    return lambda results: results[scenario]["idle_fork"][key] / 1024


def _cli(verb: str) -> Callable[[Results], float]:
    return lambda results: float(results["cli"]["commands"][verb]["median_ms"])


def _workload(place: str, steps: tuple[str, ...], base: str) -> Callable[[Results], float]:
    """How long cowfs takes for some steps together, over ``base``."""

    def measure(results: Results) -> float:
        systems = results["workloads"]["placements"][place]["systems"]
        cowfs, other = (sum(systems[name][step]["median_ms"] for step in steps) for name in ("cowfs", base))
        return float(cowfs / other)

    return measure


def _worst(place: str) -> Callable[[Results], float]:
    """Of the steps there are: one that is too slow decides; that none is can be said only of all."""

    def measure(results: Results) -> float:
        found = []
        for step in METADATA:
            with contextlib.suppress(KeyError):
                found.append(_workload(place, (step,), "bindfs")(results))
        if len(found) < len(METADATA) and max(found, default=0) <= 1:
            raise KeyError("some steps are missing")
        return max(found)

    return measure


def _workload_aims() -> Iterator[Aim]:
    for place, words in PLACES.items():
        for text, (steps, limit) in WORKLOADS.items():
            over = f"{text}, over the disk; {words}"
            yield Aim("workloads", over, limit, "times", _workload(place, steps, "native"))
        over = f"metadata, the worst of {len(METADATA)} steps, over bindfs; {words}"
        yield Aim("workloads", over, 1, "times", _worst(place))


def _request_aims() -> Iterator[Aim]:
    def memory(name: str) -> Callable[[Results], float]:
        return lambda results: float(results["requests"]["cpu_us"][name])

    def live(name: str) -> Callable[[Results], float]:
        return lambda results: float(results["requests"]["live"][name]["own_us"])

    for name, limit in REQUESTS.items():
        words = name.replace("_", " ")
        yield Aim("requests", f"CPU of the server for a {words}, without system calls", limit, "µs", memory(name))
        yield Aim("requests", f"CPU of a live worker for a {words}", limit, "µs", live(name))


def _company_aims() -> Iterator[Aim]:
    def over(name: str) -> Callable[[Results], float]:
        def measure(results: Results) -> float:
            found = results["scale"]["neighbours"]
            if any(len(set(pids)) < 2 for pids in found[name]["workers"]):
                raise KeyError("one process served both")
            return float(found[name]["median_ms"] / found["alone"]["median_ms"])

        return measure

    for name in ("storm_in_another_workspace", "storm_in_its_fork"):
        text = f"what a program waits for, {name.replace('_', ' ')} (another process), over alone"
        yield Aim("scale", text, 2, "times", over(name))


def _shared_aims() -> Iterator[Aim]:
    def over(kind: str, what: str) -> Callable[[Results], float]:
        def measure(results: Results) -> float:
            trees = results["shared"]["trees"]
            tree = trees[max(trees, key=int)]
            if not tree["passthrough"][kind]:
                raise KeyError("the disk had no room for passthrough")
            rows = {row["mounts"]: row for row in tree[kind]}
            return float(rows[100][what] / rows[1][what])

        return measure

    kinds = {"snapshots": "100 read-only mounts of one root", "bound": "one read-only mount in 100 places"}
    for kind, where in kinds.items():
        for name, what in (("page cache", "page_cache_mb"), ("memory of the workers", "workers_mb")):
            yield Aim("shared", f"{name} of {where}, over one's", ONCE, "times", over(kind, what))


def aims() -> Iterator[Aim]:
    """All of them."""
    yield from _verb_aims()
    yield from _shared_aims()
    yield from _request_aims()
    yield from _company_aims()
    yield from _workload_aims()


def _verb_aims() -> Iterator[Aim]:
    for verb in VERBS:
        name = verb.replace("_", " ")
        yield Aim("verbs", f"{name}, engine: 1 million files over 1 thousand", 1.5, "times", _ratio(_in_engine, verb))
        yield Aim("api", f"{name}, API: 1 million files over 1 thousand", 1.5, "times", _ratio(_api, verb))
    yield Aim("verbs", "fork, engine, over append + fdatasync", 3, "times", _over_floor("fork", "append_fdatasync"))
    for verb, floor, tail in (
        ("checkpoint_durable", "append_fdatasync", "4 KiB"),
        ("checkpoint_4mib_tail", "append_4mib_fdatasync", "4 MiB"),
    ):
        text = f"durable checkpoint with a tail of {tail}, engine, over append + fdatasync of as much"
        yield Aim("verbs", text, 3, "times", _over_floor(verb, floor))
    yield Aim("api", "fork, API", 5, "ms", _api_ms("fork"))
    yield Aim("api", "durable checkpoint, API", 5, "ms", _api_ms("checkpoint_durable"))
    yield Aim("verbs", "restore of 100 changes, engine", 10, "ms", _engine("restore_100_changes"))
    text = "restore of 100 changes, engine, live mount of 100,000 files, nothing open for writing"
    yield Aim("live", text, 10, "ms", _live)
    text = "restore of 100 changes, API, nothing open for writing"
    yield Aim("api", text, 10, "ms", _api_ms("restore_100_changes"))
    yield Aim("verbs", "clean checkpoint, engine", 0.2, "ms", _engine("checkpoint_clean"))
    for verb in VERBS:
        yield Aim("cli", f"whole process: {verb.replace('_', ' ')}", 90, "ms", _cli(verb))
    yield Aim("verbs", "disk for an idle fork", 8, "KiB", _idle("verbs", "disk_bytes_each"))
    yield Aim("verbs", "memory for an idle fork, open in the engine", 100, "KiB", _idle("verbs", "resident_bytes_each"))
    text = "memory for an idle fork, mounted by the daemon"
    yield Aim("api", text, 100, "KiB", _idle("api", "mounted_resident_bytes_each"))
    yield Aim("replay", "replay of 100,000 records", 2000, "ms", lambda all: float(all["replay"]["replay_ms_per_100k"]))


def judged(results: Results) -> Iterator[Judged]:
    """Every aim with its verdict."""
    for aim in aims():
        limit = f"{aim.limit:.4g} {aim.unit}"
        try:
            value = aim.measure(results)
        except KeyError:
            yield Judged(aim.scenario, aim.text, limit, "–", "not measured")
            continue
        verdict = "met" if value <= aim.limit else "**missed**"
        yield Judged(aim.scenario, aim.text, limit, f"{number(value)} {aim.unit}", verdict)
