"""Working with files: untar, find, reading warm and cold, git add and commit, cp -a, rm -rf; cowfs against the disk.

Systems and placements: :mod:`bench.systems`. ``clone_verb`` and ``rm_verb`` are cowfs' own for cp -a and rm -rf, by the
API. The systems take turns within every placement. A cold read follows a remount (cowfs: a new daemon, everything
settled) and dropped caches.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import common, systems, trees
from bench.common import Series, shell
from bench.systems import PLACEMENTS, SYSTEMS, System

READ_ALL = "find tree -type f -print0 | xargs -0 cat"
COMMIT = "git init -q repo && mv tree repo/tree && cd repo && git add -A && git -c gc.auto=0 commit -q -m all"
VERBS = {"clone_verb": "copy", "rm_verb": "rm"}
"""Steps of cowfs alone -> what they are compared with."""


def one_turn(system: System, archive: Path, series: Series) -> None:
    """Every step once, in an empty directory that is empty again afterwards."""
    root = system.root
    series.time("untar", shell, f"tar -xf {archive}", root)
    series.time("find", shell, "find tree -size +1000000c", root)
    shell(READ_ALL, root)
    series.time("read_warm", shell, READ_ALL, root)
    series.time("copy", shell, "cp -a tree copy", root)
    shell("rm -rf copy", root)
    if system.workspace is not None:
        workspace = system.workspace()
        series.time("clone_verb", workspace.clone_path, "tree", "clone")
        shell("find clone -size +1000000c", root)
        series.time("rm_verb", workspace.remove_path, "clone")
    series.time("rm", shell, "rm -rf tree", root)
    shell(f"tar -xf {archive}", root)
    series.time("git_add_commit", shell, COMMIT, root)
    shell("mv repo/tree tree", root)
    system.make_cold()
    series.time("read_cold", shell, READ_ALL, root)
    shell("rm -rf tree repo", root)


def measure(directory: Path, archive: Path, names: Sequence[str], place: str, turns: int) -> dict[str, Any]:
    """All systems in turns, in one placement; with the ratio of medians to native."""
    cpus = PLACEMENTS[place]
    series = {name: Series() for name in names}
    for turn in range(turns):
        for name in names:
            with SYSTEMS[name](directory / f"{name}-{place}-{turn}", cpus) as system, common.placed(cpus):
                one_turn(system, archive, series[name])
            shutil.rmtree(directory / f"{name}-{place}-{turn}")
    summaries = {name: one.summaries() for name, one in series.items()}
    return {"systems": summaries, "ratio_to_native": systems.ratios(summaries, VERBS)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--placements", nargs="*", choices=PLACEMENTS, default=list(PLACEMENTS))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()
    skipped = systems.lacking(options.systems)
    names = [name for name in options.systems if name not in skipped]
    results: dict[str, Any] = {"files": options.files, "placements": {}, "skipped": skipped}
    with common.scratch() as directory:
        size = trees.small_files(directory / "source" / "tree", options.files)
        archive = directory / "files.tar"
        common.run("tar", "-C", directory / "source", "-cf", archive, "tree")
        shutil.rmtree(directory / "source")
        results["bytes"] = size
        for place in options.placements:
            results["placements"][place] = measure(directory, archive, names, place, options.turns)
    common.report("files", results)


if __name__ == "__main__":
    main()
