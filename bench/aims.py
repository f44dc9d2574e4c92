"""What the figures should be, and whether they are: one function from the JSON to verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.common import number

SMALL, LARGE = "1000", "1000000"
RATIO_RUNS_MIN = 30
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """One aim. ``verdict``: met, **missed**, or not measured."""

    text: str
    limit_text: str
    measured: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Aim:
    """``measure`` gives the figure, in ``unit``; it raises KeyError when the results do not have it."""

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


def _idle(scenario: str, key: str) -> Callable[[Results], float]:
    return lambda results: results[scenario]["idle_fork"][key] / 1024


def _cli(verb: str) -> Callable[[Results], float]:
    return lambda results: float(results["cli"]["commands"][verb]["median_ms"])


def aims() -> Iterator[Aim]:
    """All of them."""
    for verb in ("fork", "checkpoint_durable", "checkpoint_clean", "restore_100_changes"):
        name = verb.replace("_", " ")
        yield Aim(f"{name}, engine: 1 million files over 1 thousand", 1.5, "times", _ratio(_in_engine, verb))
        yield Aim(f"{name}, API: 1 million files over 1 thousand", 1.5, "times", _ratio(_api, verb))
    yield Aim("fork, engine, over append + fdatasync", 3, "times", _over_floor("fork", "append_fdatasync"))
    for verb, floor, tail in (
        ("checkpoint_durable", "append_fdatasync", "4 KiB"),
        ("checkpoint_4mib_tail", "append_4mib_fdatasync", "4 MiB"),
    ):
        text = f"durable checkpoint with a tail of {tail}, engine, over append + fdatasync of as much"
        yield Aim(text, 3, "times", _over_floor(verb, floor))
    yield Aim("fork, API", 5, "ms", _api_ms("fork"))
    yield Aim("durable checkpoint, API", 5, "ms", _api_ms("checkpoint_durable"))
    yield Aim("restore of 100 changes, engine", 10, "ms", _engine("restore_100_changes"))
    yield Aim(
        "restore of 100 changes, engine, live mount of 100,000 files, nothing open for writing",
        10,
        "ms",
        lambda results: float(results["live"]["files"]["100000"]["0"]["restore_100_changes"]["median_ms"]),
    )
    yield Aim("restore of 100 changes, API, nothing open for writing", 10, "ms", _api_ms("restore_100_changes"))
    yield Aim("clean checkpoint, engine", 0.2, "ms", _engine("checkpoint_clean"))
    for verb in ("fork", "checkpoint_durable", "checkpoint_clean", "restore_100_changes"):
        yield Aim(f"whole process: {verb.replace('_', ' ')}", 90, "ms", _cli(verb))
    yield Aim("disk for an idle fork", 8, "KiB", _idle("verbs", "disk_bytes_each"))
    yield Aim("memory for an idle fork, open in the engine", 100, "KiB", _idle("verbs", "resident_bytes_each"))
    yield Aim("memory for an idle fork, mounted by the daemon", 100, "KiB", _idle("api", "mounted_resident_bytes_each"))
    yield Aim("replay of 100,000 records", 2000, "ms", lambda results: float(results["replay"]["replay_ms_per_100k"]))


def judged(results: Results) -> Iterator[Judged]:
    """Every aim with its verdict."""
    for aim in aims():
        limit = f"{aim.limit:g} {aim.unit}"
        try:
            value = aim.measure(results)
        except KeyError:
            yield Judged(aim.text, limit, "–", "not measured")
            continue
        verdict = "met" if value <= aim.limit else "**missed**"
        yield Judged(aim.text, limit, f"{number(value)} {aim.unit}", verdict)
