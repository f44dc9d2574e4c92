"""Many read-only mounts of one snapshot, every file read in each: how much memory that takes.

``page_cache_mb`` and ``workers_mb`` are what the machine's page cache, and the daemon's workers, have grown by after so
many mounts were read. Passthrough lets all mounts share one page cache; its peer here is the same without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench import common, daemons, trees
from cowfs.client.store import Store


def cached() -> int:
    """Bytes of the page cache."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {name.rstrip(":"): int(rest[0]) << 10 for name, *rest in lines}
    return found["Cached"]


def workers(client: Store) -> int:
    """Resident bytes of the processes that serve files."""
    found = 0
    for worker in client.daemon()["workers"]:
        fields = Path(f"/proc/{worker['pid']}/statm").read_text().split()
        found += (int(fields[1]) - int(fields[2])) * 4096
    return found


def read_all(root: Path) -> int:
    """Read every file; how many bytes."""
    return sum(len(path.read_bytes()) for path in root.rglob("*") if path.is_file())


def measure(directory: Path, source: Path, mounts: int, *, writable: bool) -> list[dict[str, Any]]:
    """Figures after 1, 2, … mounts; ``writable``: of forks, which have no passthrough, instead of the snapshot's."""
    store = directory / ("forks" if writable else "snapshots")
    daemons.make_store(store, [])
    rows: list[dict[str, Any]] = []
    with daemons.serving(store) as client:
        workspace = client.import_tree(str(source), "base")
        snapshots = [workspace.checkpoint("one").snapshot.id]
        for number in range(1, mounts):
            snapshots.append(workspace.checkpoint(f"{number}", allow_empty=True).snapshot.id)
        daemons.settled(client)
        names = [f"fork-{n}" for n in range(mounts)]
        if writable:
            for name in names:
                client.fork(snapshots[0], name)
        client.mount(snapshots[0])
        common.write_back(store)
        common.drop_caches()
        before, serving = cached(), workers(client)
        for number in range(mounts):
            read = read_all(Path(client.mount(names[number] if writable else snapshots[number])))
            if number + 1 in (1, 2, 10, mounts):
                grown = {"page_cache_mb": (cached() - before) / 1e6, "workers_mb": (workers(client) - serving) / 1e6}
                rows.append({"mounts": number + 1, "read_mb": read / 1e6, **grown})
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--mounts", type=int, default=100)
    options = parser.parse_args()
    with common.scratch() as directory:
        size = trees.small_files(directory / "source", options.files)
        results: dict[str, Any] = {"files": options.files, "bytes": size}
        for name, writable in (("snapshots", False), ("forks", True)):
            results[name] = measure(directory, directory / "source", options.mounts, writable=writable)
    common.report("shared", results)


if __name__ == "__main__":
    main()
