"""Put the figures of ``build/bench/*.json`` into ``docs/performance.md``, each scenario's between its two marker lines.

    python -m bench.render [--results DIRECTORY] [--print]

What stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` comes from NAME's JSON alone, with the machine
and the day of measuring; everything else, titles too, is written by hand and stays. So does what stands between the
markers of a scenario that has no JSON, and the verdict on each of its aims.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import aims, common
from bench.aims import VERBS
from bench.common import number

DOCUMENT = common.REPOSITORY / "docs" / "performance.md"
AIMS = "aims"
RESULTS = common.REPOSITORY / "build" / "bench"
NOT_MEASURED = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all but the first column to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def words(name: str) -> str:
    """A name from the JSON as words."""
    return name.replace("_", " ")


def ms(summary: dict[str, float] | None) -> str:
    """Median and, in brackets, p95, in milliseconds."""
    if summary is None:
        return NOT_MEASURED
    return f"{number(summary['median_ms'])} ({number(summary['p95_ms'])})"


def runs(results: Iterable[dict[str, float]]) -> str:
    """How often each was measured."""
    counts = sorted({int(one["n"]) for one in results})
    return "n = " + ("-".join(str(count) for count in (counts[0], counts[-1])) if len(counts) > 1 else str(counts[0]))


def verbs_section(data: dict[str, Any]) -> str:
    """The verbs in the engine."""
    files = data["files"]
    names = list(next(iter(files.values())))
    rows = [[words(name), *(ms(files[size].get(name)) for size in files)] for name in names]
    rows += [[words(name), *([ms(one)] + [""] * (len(files) - 1))] for name, one in data["floor"].items()]
    count = runs(one for by_name in files.values() for one in by_name.values())
    head = ["milliseconds, median (p95)", *(f"{int(size):,} files" for size in files)]
    idle = data["idle_fork"]
    forks = idle_table(["open in one process", idle["count"], idle["disk_bytes_each"], idle["resident_bytes_each"]])
    return f"Nothing mounted; {count}. The last rows are the floor.\n\n{table(head, rows)}\n\n{forks}"


def live_section(data: dict[str, Any]) -> str:
    """On a live mount, by files open for writing."""
    cases = [(size, writers) for size, by_writers in data["files"].items() for writers in by_writers]
    rows = [[words(verb), *(ms(data["files"][size][w].get(verb)) for size, w in cases)] for verb in VERBS]
    head = ["milliseconds, median (p95)", *(f"{int(size):,} files, {int(w):,} writable" for size, w in cases)]
    count = runs(one for size, w in cases for one in data["files"][size][w].values())
    return f"{count}; writable: open for writing, clean.\n\n{table(head, rows)}"


def api_section(data: dict[str, Any]) -> str:
    """Through the API."""
    cases = [(w, size) for w, one in data["writers"].items() for size in one["files"]]
    rows = [
        [words(verb), *(ms(data["writers"][w]["files"][size].get(verb)) for w, size in cases)] for verb in aims.VERBS
    ]
    rows.append(["null call", ms(data["writers"][cases[0][0]]["null_call"]), *[""] * (len(cases) - 1)])
    head = ["milliseconds, median (p95)", *(f"{int(size):,} files, {int(w):,} writable" for w, size in cases)]
    count = runs(one for w, size in cases for one in data["writers"][w]["files"][size].values())
    about = f"`cowfs.connect()` in a running process, the real daemon; {count}."
    idle = data["idle_fork"]
    forks = idle_table(
        ["made by the daemon", idle["count"], idle["disk_bytes_each"], idle["resident_bytes_each"]],
        ["and mounted", idle["mounted"], idle["mounted_disk_bytes_each"], idle["mounted_resident_bytes_each"]],
    )
    return f"{about}\n\n{table(head, rows)}\n\n{forks}"


def cli_section(data: dict[str, Any]) -> str:
    """Whole processes of ours."""
    return f"A mounted workspace of {data['files']:,} files.\n\n{_processes(data)}"


def peers_section(data: dict[str, Any]) -> str:
    """Whole processes of the peers."""
    return f"A tree of {data['files']:,} files, {number(data['bytes'] / 1e6)} MB.\n\n{_processes(data)}"


def _processes(data: dict[str, Any]) -> str:
    rows = [[words(command), ms(one), int(one["n"])] for command, one in data["commands"].items()]
    return table(["milliseconds, median (p95)", "time", "n"], rows)


def idle_table(*rows: Sequence[object]) -> str:
    """What one more idle fork costs."""
    return table(["one more idle fork, bytes", "forks", "on disk", "resident"], rows)


def files_section(data: dict[str, Any]) -> str:
    """Work with files, as ratios."""
    size = number(data["bytes"] / 1e6)
    about = f"{data['files']:,} small files, {size} MB, on a live mount of the daemon."
    return f"{about}\n\n{_side_by_side(data['placements'])}"


def workloads_section(data: dict[str, Any]) -> str:
    """Whole workloads, as ratios."""
    sizes = data["sizes"]
    about = (
        f"A tree of {sizes['tree_files']:,} files; a repository of {sizes['git_files']:,}, and as many to add; "
        f"{sizes['storm_files']:,} files in one directory; {sizes['sources']} C sources; {sizes['rows']} inserts; "
        f"{sizes['large_mib']} MiB of fio, or 4,096 requests of 4 KiB, by 1 and 4 jobs, writes with their fsync; "
        f"100 MB of dbench; {sizes['transactions']:,} transactions of pgbench."
    )
    left_out = [f"Left out: {name}: {why}." for name, why in {**data["skipped"], **data["failed"]}.items()]
    return "\n\n".join([about, *left_out, _side_by_side(data["placements"])])


def disks_section(data: dict[str, Any]) -> str:
    """Work inside of disk workspaces."""
    about = (
        f"{data['files']:,} files unpacked and committed, a project installed by pip, all removed, each with a sync of "
        "that filesystem; and the verbs of a disk workspace that is attached, through the API, with freezing."
    )
    return f"{about}\n\n{_steps_table(data)}"


def _side_by_side(placements: dict[str, Any]) -> str:
    """A table for each placement: every step on every system, and over the disk itself."""
    return "\n\n".join(f"{PLACES[place]}; {_steps_table(one)}" for place, one in placements.items())


def _steps_table(one: dict[str, Any]) -> str:
    systems = one["systems"]
    rows = [
        [
            words(step),
            *(ms(systems[system].get(step)) for system in systems),
            *(number(ratios[step]) if step in ratios else "" for ratios in one["ratio_to_native"].values()),
        ]
        for step in dict.fromkeys(step for system in systems.values() for step in system)
    ]
    head = ["milliseconds, median (p95)", *systems, *(f"{name} / native" for name in one["ratio_to_native"])]
    count = runs(step for system in systems.values() for step in system.values())
    return f"{count}:\n\n{table(head, rows)}"


PLACES = {"pinned": "Program and server on one CPU", "free": "Unpinned"}


def import_section(data: dict[str, Any]) -> str:
    """Import speed and stored size."""
    rows = [
        [
            f"`{name}`" if name.startswith("/") else name,
            f"{one['files']:,}",
            number(one["bytes"] / 1e6),
            f"{one['files_a_second']:,}",
            one["mb_a_second"],
            number(one["cp"]["median_ms"] / 1000),
            number(one["import"]["median_ms"] / 1000),
            number(one["import_again"]["median_ms"] / 1000),
            number(one["stored_bytes"] / 1e6),
            number(one["tar_zstd_bytes"] / 1e6),
            f"{one['stored_bytes'] / one['tar_zstd_bytes']:.2f}",
        ]
        for name, one in data["trees"].items()
    ]
    head = [
        "tree", "files", "MB", "files/s", "MB/s", "`cp -a` s", "import s", "again s", "stored MB", "tar, zstd MB",
        "stored / tar",
    ]  # fmt: skip
    return table(head, rows)


def replay_section(data: dict[str, Any]) -> str:
    """Replay."""
    return (
        f"{data['records']:,} records of an untar ({number(data['journal_bytes'] / 1e6)} MB) replay in "
        f"{number(data['replay_ms'])} ms: {number(data['replay_ms_per_100k'])} ms per 100,000 records, "
        f"{number(data['record_us'])} µs each. Making and journaling them took {number(data['journaling_us_each'])} µs "
        "each."
    )


def settle_section(data: dict[str, Any]) -> str:
    """Settling."""
    files = data["files"]
    names = list(next(iter(files.values())))
    rows = [[words(name), *(ms(files[size][name]) for size in files)] for name in names]
    head = ["milliseconds, median (p95)", *(f"{int(size):,} files" for size in files)]
    count = runs(one for by_name in files.values() for one in by_name.values())
    return f"In the background, by a process of its own; {count}.\n\n{table(head, rows)}"


def isolation_section(data: dict[str, Any]) -> str:
    """Files and the API side by side."""
    work, calls = data["file_operations"], data["list_calls"]
    alone, call = work["alone"]["median_ms"], calls["alone"]["median_ms"]
    rows: list[list[object]] = [
        [f"{data['files']:,} files made, written and looked at, alone", ms(work["alone"]), 1],
        [f"while {data['clients']} clients call `list`", ms(one := work["clients_list"]), number(_over(one, alone))],
        [f"while {data['clients']} processes compute", ms(one := work["cpus_busy"]), number(_over(one, alone))],
        ["one call of `list`, alone", ms(calls["alone"]), 1],
        [f"while {data['writers']} programs write", ms(one := calls["programs_write"]), number(_over(one, call))],
    ]
    head = ["milliseconds, median (p95)", "", "ratio"]
    return f"{runs([*work.values(), *calls.values()])}.\n\n{table(head, rows)}"


def requests_section(data: dict[str, Any]) -> str:
    """CPU time of requests."""
    others = data.get("cpu_us_among_others", {})
    memory = [
        [words(name), number(took), *(number(each[name]) for each in others.values())]
        for name, took in data["cpu_us"].items()
    ]
    live = [
        [words(name), *(number(one[key]) for key in ("own_us", "cpu_us")),
         ", ".join(f"{number(n)} {operation.upper()}" for operation, n in one["requests_each"].items() if n >= 0.01)]
        for name, one in data["live"].items()
    ]  # fmt: skip
    head = ["a storm on a live mount, µs of the worker's CPU", "a file, less its GETATTRs", "a request", "sent a file"]
    between = [f"{int(size) >> 10:,} KiB read in between" for size in others]
    without = table(["without system calls, µs of CPU", "one after the other", *between], memory)
    return f"Medians; the storms: daemon and program on one CPU.\n\n{table(head, live)}\n\n{without}"


def gc_section(data: dict[str, Any]) -> str:
    """Garbage collection beside writers."""
    writers = data["writers"]
    return (
        f"{data['snapshots']:,} snapshots, of which {data['removed']:,} were removed in {writers['n']} parts, with a "
        f"collection after each, while {writers['processes']} programs rewrote small files: of "
        f"{number(data['unreachable_bytes'] / 1e6)} MB that nothing needed, {100 * data['came_back']:.1f} % came back. "
        f"A collection took {number(statistics.median(data['collection_s']))} s (median). The programs wrote "
        f"{writers['alone_files_per_s']:,} files a second alone and {writers['during_files_per_s']:,} during "
        f"collections, {number(writers['during_over_alone'])} times as many."
    )


def shared_section(data: dict[str, Any]) -> str:
    """Memory of many mounts that are read."""
    files, one = max(data["trees"].items(), key=lambda tree: int(tree[0]))
    counts = " and ".join(f"{int(count):,}" for count in data["trees"])
    paragraphs = [
        f"{int(files):,} files, every one read in each mount, from cold. What each further one takes comes from trees "
        f"of {counts} files. Files written out for passthrough: {one['passthrough']['snapshots']:,}."
    ]
    kinds = {
        "snapshots": "read-only mounts of equal snapshots", "bound": "one of them, bound in so many places",
        "forks": "forks, writable",
    }  # fmt: skip
    for name, words_for in kinds.items():
        grown = data["growth"][name]
        rows = [[row["mounts"], *(number(row[f"{what}_mb"]) for what in ("read", *grown))] for row in one[name]]
        rows += [
            ["each further one by itself", "", *(number(each["bytes_a_mount"] / 1e6) for each in grown.values())],
            ["and for each file, bytes", "", *(f"{each['bytes_a_file_and_mount']:,}" for each in grown.values())],
        ]
        paragraphs.append(table([f"{words_for}; MB", "read in each", *grown], rows))
    return "\n\n".join(paragraphs)


def scale_section(data: dict[str, Any]) -> str:
    """Large directories and workspaces, many programs, neighbours."""
    where = data["directory"]
    steps = where["cowfs_us"]
    parts = [
        f"A directory of {where['files']:,} files; the workers had {number(where['workers_mb'][0])} MB before and "
        f"{number(where['workers_mb'][1])} MB after it:",
        table(
            ["microseconds a file", "cowfs", "native", "cowfs / native"],
            [[words(step), number(steps[step]), number(where["native_us"][step]),
              number(steps[step] / where["native_us"][step])] for step in steps],
        ),
    ]  # fmt: skip
    large = data["workspace"]
    parts += [
        f"A workspace of {large['files']:,} files:",
        table(
            ["seconds", *(words(step) for step in large["seconds"])],
            [["", *(number(took) for took in large["seconds"].values())]],
        ),
        "Memory of the workers, MB: "
        + ", ".join(f"{words(when)} {number(size)}" for when, size in large["workers_mb"].items()) + ".",
    ]  # fmt: skip
    together = data["parallel"]
    parts += [
        f"{together['programs']} programs at once that make, look at, read and remove small files, operations a second "
        "of all together:",
        table(
            [words(name) for name in together["operations_per_second"]],
            [[f"{count:,}" for count in together["operations_per_second"].values()]],
        ),
        "What a program waits for making, looking at and removing a small file, while something else goes on; a storm "
        "is served by another process than the program:",
        table(
            ["milliseconds", "median", "p95", "median / alone"],
            [[words(name), number(one["median_ms"]), number(one["p95_ms"]),
              number(one["median_ms"] / data["neighbours"]["alone"]["median_ms"])]
             for name, one in data["neighbours"].items()],
        ),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _over(one: dict[str, float], alone: float) -> float:
    return one["median_ms"] / alone


def aims_section(results: dict[str, Any], before: str = "") -> str:
    """Each aim, what was measured, and whether that meets it; ``before``: the table that was there, whose row stays
    where nothing was measured anew."""
    known = {tuple(cells[:2]): cells for line in before.splitlines() if len(cells := line[2:-2].split(" | ")) == 4}
    rows = [
        known.get((one.text, one.limit_text), new) if one.scenario not in results else new
        for one in aims.judged(results)
        if (new := [one.text, one.limit_text, one.measured, one.verdict])
    ]
    return table(["aim", "at most", "measured", ""], rows)


def measured(report: dict[str, Any]) -> str:
    """When, where, and how busy it was."""
    machine = report["machine"]
    cpu = f"{machine['cpus']} CPUs ({machine['cpu'] or 'of unknown model'})"
    return (
        f"Measured on {report['measured']}: {cpu}, {number(machine['memory_bytes'] / 2**30)} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}; load average {machine['load'][0]} at the end."
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "verbs": verbs_section, "live": live_section, "api": api_section, "cli": cli_section, "peers": peers_section,
    "files": files_section, "disks": disks_section, "workloads": workloads_section, "import_tree": import_section,
    "settle": settle_section, "replay": replay_section, "requests": requests_section, "isolation": isolation_section,
    "gc": gc_section, "shared": shared_section, "scale": scale_section,
}  # fmt: skip
"""What the document has figures of."""


def parts(document: str, name: str) -> tuple[str, str, str]:
    """The document before, between and after the markers of ``name``; they belong to what is before and after.

    Raises ValueError when there is not one place for it.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document has no single place for {name}: write `{begin}` and `{end}` where it is to go")
    before, rest = document.split(begin)
    between, after = rest.split(end)
    return before + begin, between.strip(), end + after


def replaced(document: str, name: str, text: str) -> str:
    """``document`` with ``text`` between the markers of ``name``. Raises ValueError."""
    before, _, after = parts(document, name)
    return f"{before}\n\n{text}\n\n{after}"


def rendered(results: Path, document: str) -> str:
    """``document`` with the figures of the JSON files in ``results`` in place. Raises FileNotFoundError, ValueError."""
    paths = {name: results / f"{name}.json" for name in SECTIONS}
    reports = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not reports:
        raise FileNotFoundError(f"no results in {results}: run `make bench` first")
    found = {name: report["results"] for name, report in reports.items()}
    document = replaced(document, AIMS, aims_section(found, parts(document, AIMS)[1]))
    for name, report in reports.items():
        document = replaced(document, name, f"{measured(report)}\n\n{SECTIONS[name](found[name])}")
    return document


def rewrite(results: Path) -> None:
    """Put the figures into the document."""
    DOCUMENT.write_text(rendered(results, DOCUMENT.read_text()))


def main() -> int:
    """Rewrite the document, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a directory of JSON files")
    parser.add_argument("--print", action="store_true", help="print the document, change nothing")
    options = parser.parse_args()
    try:
        if options.print:
            print(rendered(options.results, DOCUMENT.read_text()))
        else:
            rewrite(options.results)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
