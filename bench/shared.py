"""One root in many places, every file read in each: how much memory that takes.

After so many mounts were read, in MB: ``files`` and ``listings``: pages that the kernel keeps of the mounts' files and
directories; ``store``: of the store's files, among them those that the kernel reads by itself for the mounts
(passthrough); ``page_cache``: all three. ``kernel``: inodes and names (SReclaimable, of the whole machine);
``workers``: memory of the daemon's workers. The last three as they have grown.

``snapshots``: read-only mounts of as many equal snapshots; ``bound``: one such mount, bound in as many places
(mount --bind), as it is given to many sandboxes; ``forks``: writable mounts, which have no passthrough. With trees of
two sizes, ``growth`` says what each further mount takes by itself, and for each file that was read in it.
``passthrough``: how many files were written out for it; none where the disk has too little free.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import common, daemons, trees
from cowfs.client.store import Store

KINDS = ("snapshots", "bound", "forks")

GROWS = ("files", "listings", "store", "kernel", "workers")
_HASH_LENGTH = 64  # of a name in STORE/shown
_CACHESTAT = 451  # on every architecture; since Linux 6.5
_libc = ctypes.CDLL(None, use_errno=True)


def cached(fd: int) -> int:
    """Bytes of the page cache that are of an open file or directory. Raises OSError before Linux 6.5."""
    whole, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if _libc.syscall(_CACHESTAT, fd, whole, found, 0):
        raise OSError(ctypes.get_errno(), "the kernel does not say what it caches of a file: cachestat(2)")
    return int(found[0]) * mmap.PAGESIZE


def read_all(root: Path) -> Counter[str]:
    """Read every file; ``read``: how many bytes, ``files``, ``listings``: what is cached of them then."""
    found: Counter[str] = Counter()
    for path, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                found["read"] += len(file.read())
                found["files"] += cached(file.fileno())
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        found["listings"] += cached(directory)
        os.close(directory)
    return found


def memory(client: Store) -> Counter[str]:
    """What the mounts have in common: bytes of ``store``, ``kernel`` and ``workers``."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = Counter({"kernel": next(int(rest[0]) << 10 for name, *rest in lines if name == "SReclaimable:")})
    found["workers"] = sum(common.resident_bytes(worker["pid"]) for worker in client.daemon()["workers"])
    for path in Path(client.path).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found["store"] += cached(file.fileno())
    return found


@contextlib.contextmanager
def bound(root: str, places: Path) -> Iterator[Iterator[str]]:
    """One mount, at one more place with each step."""
    with contextlib.ExitStack() as stack:

        def bind() -> Iterator[str]:
            for number in itertools.count():
                place = places / f"{number}"
                place.mkdir(parents=True)
                common.run("mount", "--bind", root, place)
                stack.callback(common.run, "umount", place)
                yield str(place)

        yield bind()


def measure(directory: Path, source: Path, mounts: int, kind: str) -> tuple[list[dict[str, Any]], int]:
    """Figures after 1, 2, … mounts, and how many files passthrough had; ``kind``: one of :data:`KINDS`."""
    store = directory / f"{source.name}-{kind}"
    daemons.make_store(store, [])
    rows: list[dict[str, Any]] = []
    with daemons.serving(store) as client, contextlib.ExitStack() as stack:
        workspace = client.import_tree(str(source), "base")
        snapshots = [workspace.checkpoint("one").snapshot.id]
        for number in range(1, mounts):
            snapshots.append(workspace.checkpoint(f"{number}", allow_empty=True).snapshot.id)
        daemons.settled(client)
        one = client.mount(snapshots[0])
        roots: Iterator[str]
        if kind == "forks":
            forks = [client.fork(snapshots[0], f"fork-{n}")[0].name for n in range(mounts)]
            roots = map(client.mount, forks)
        elif kind == "bound":
            roots = stack.enter_context(bound(one, directory / f"{store.name}-places"))
        else:
            roots = map(client.mount, snapshots)
        common.write_back(store)
        common.drop_caches()
        before, mounted = memory(client), Counter[str]()
        for number, root in zip(range(mounts), roots, strict=False):
            read = read_all(Path(root))
            if kind == "bound":
                mounted = read  # the same files at each place
            else:
                mounted.update(read)
            if number + 1 in (1, 2, 10, mounts):
                grown = {**mounted, **{name: size - before[name] for name, size in memory(client).items()}}
                row = {f"{name}_mb": grown[name] / 1e6 for name in GROWS}
                row["page_cache_mb"] = sum(row[f"{name}_mb"] for name in ("files", "listings", "store"))
                rows.append({"mounts": number + 1, "read_mb": read["read"] / 1e6, **row})
        return rows, sum(len(path.name) == _HASH_LENGTH for path in (store / "shown").rglob("*"))


def growth(trees: dict[int, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """What -> bytes that one more mount takes, of no file and for each file; from the rows of two numbers of files."""
    (few, small), (many, large) = sorted(trees.items())
    found = {}
    for name in GROWS:
        each = [
            (rows[-1][f"{name}_mb"] - rows[0][f"{name}_mb"]) / (rows[-1]["mounts"] - rows[0]["mounts"]) * 1e6
            for rows in (small, large)
        ]
        a_file = (each[1] - each[0]) / (many - few)
        found[name] = {"bytes_a_mount": round(each[0] - a_file * few), "bytes_a_file_and_mount": round(a_file)}
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs=2, default=[500, 5_000], help="of two trees")
    parser.add_argument("--mounts", type=int, default=100)
    options = parser.parse_args()
    results: dict[str, Any] = {"trees": {}, "growth": {}}
    with common.scratch() as directory:
        for files in options.files:
            source = directory / f"{files}-files"
            size = trees.small_files(source, files)
            one: dict[str, Any] = {"bytes": size, "passthrough": {}}
            results["trees"][str(files)] = one
            for name in KINDS:
                one[name], one["passthrough"][name] = measure(directory, source, options.mounts, name)
    for name in KINDS:
        results["growth"][name] = growth({int(files): one[name] for files, one in results["trees"].items()})
    common.report("shared", results)


if __name__ == "__main__":
    main()
