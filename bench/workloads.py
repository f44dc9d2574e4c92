"""Whole workloads on cowfs and its peers, side by side: node_modules, pip, git, grep, a build, databases, fio, dbench.

    python -m bench.workloads [-n N] [--only NAME ...] [--systems NAME ...] [--placement pinned|free] [--into FILE]

The workloads stand in :mod:`bench.programs` and :mod:`bench.throughput`; systems and placements in
:mod:`bench.systems`. For each workload and placement the systems take turns, ``n`` times, each turn on a system that
was made for it and is empty. With ``--into`` the results of each workload are merged into FILE as soon as there are
any, so that a long run can be cut in pieces: a piece replaces the same steps of the same systems and placements and
leaves the rest. What is missing is left out and named under ``skipped``; what fails is named under ``failed``, and the
others go on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import common, programs, systems, throughput
from bench.common import Series
from bench.systems import PLACEMENTS, SYSTEMS
from bench.workload import SMALL, Sizes, Workload

WORKLOADS = programs.WORKLOADS | throughput.WORKLOADS
"""Name -> workload, in the order of running."""

FAILURES = (AssertionError, OSError, RuntimeError, subprocess.SubprocessError)


def told(error: BaseException) -> str:
    """What went wrong, in one line, with the end of what the program said."""
    said = " ".join(" ".join(getattr(error, "__notes__", ())).split())[-300:]
    return f"{type(error).__name__}: {error}{': ' + said if said else ''}"


def measure(
    workload: Workload, inputs: Path, directory: Path, names: Sequence[str], place: str, turns: int, sizes: Sizes
) -> tuple[dict[str, Series], dict[str, str]]:
    """Every step on every system, taken in turns; and why a system has none: it failed, and was left out from then."""
    cpus, taken, failed = PLACEMENTS[place], {name: Series() for name in names}, dict[str, str]()
    for turn in range(turns):
        for name in names:
            if name in failed:
                continue
            where = directory / f"{name}-{place}-{turn}"
            began = time.monotonic()
            try:
                with SYSTEMS[name](where, cpus) as system, common.placed(cpus):
                    found = workload.run(system, inputs, sizes)
            except FAILURES as error:
                failed[name] = told(error)
                del taken[name]
                say(f"  {place} {name}: failed: {failed[name]}")
                continue
            finally:
                shutil.rmtree(where, ignore_errors=True)
            for step, seconds in found.items():
                taken[name].seconds.setdefault(step, []).append(seconds)
            say(f"  {place} {name}: {time.monotonic() - began:.1f} s")
    return taken, failed


def absorb(
    results: dict[str, Any], workload: str, place: str, taken: dict[str, Series], failed: dict[str, str]
) -> None:
    """Put what one workload gave in one placement into the results, in place of what they have of the same."""
    found = results["placements"].setdefault(place, {"systems": {}})["systems"]
    for name, series in taken.items():
        found[name] = found.get(name, {}) | series.summaries()
        results["failed"].pop(f"{workload}, {place}, {name}", None)
    for name, why in failed.items():
        results["failed"][f"{workload}, {place}, {name}"] = why
    ordered = {name: found[name] for name in SYSTEMS if name in found}
    results["placements"][place] = {"systems": ordered, "ratio_to_native": systems.ratios(ordered, {})}


def earlier(path: Path | None, sizes: Sizes) -> dict[str, Any]:
    """The results to go on with: those in the file, if there is one. Raises ValueError: it has other sizes."""
    if path is None or not path.exists():
        return {"sizes": asdict(sizes), "placements": {}, "skipped": {}, "failed": {}}
    results: dict[str, Any] = json.loads(path.read_text())["results"]
    if results["sizes"] != asdict(sizes):
        raise ValueError(f"the results in {path} have other sizes: choose another file with --into, or remove that one")
    return results


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def run(options: argparse.Namespace, results: dict[str, Any], sizes: Sizes) -> None:
    """Everything that is asked for, into ``results``."""
    without = systems.lacking(options.systems)
    results["skipped"].update(without)
    names = [name for name in options.systems if name not in without]
    for name, why in without.items():
        say(f"{name}: left out, {why}")
    for name in options.only:
        workload = WORKLOADS[name]
        with common.scratch() as directory:
            directory.chmod(0o711)  # PostgreSQL's user comes by
            inputs = directory / "inputs"
            inputs.mkdir()
            why = workload.lacks()
            if not why:
                try:
                    workload.prepare(inputs, sizes)
                except FAILURES as error:
                    why = told(error)
            if why:
                results["skipped"][name] = why
                say(f"{name}: left out, {why}")
                continue
            results["skipped"].pop(name, None)
            say(name)
            for place in options.placement:
                absorb(results, name, place, *measure(workload, inputs, directory, names, place, options.n, sizes))
                common.keep("workloads", options.into, results)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="turns; the median of them is reported")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME",
                        help=f"of {', '.join(WORKLOADS)}")  # fmt: skip
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME",
                        help=f"of {', '.join(SYSTEMS)}")  # fmt: skip
    parser.add_argument("--placement", nargs="+", choices=PLACEMENTS, default=list(PLACEMENTS))
    parser.add_argument("--small", action="store_true", help="small sizes, to check the workloads themselves")
    parser.add_argument("--into", type=Path, metavar="FILE", help="merge the results into this JSON file")
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    try:
        results = earlier(options.into, sizes)
    except ValueError as error:
        parser.error(str(error))
    run(options, results, sizes)
    common.report("workloads", results)
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
