"""What every scenario shares: stores with synthetic trees, repeated timing, and the JSON report."""

from __future__ import annotations

import json
import os
import platform
import stat
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cowfs.blocks.segments import SegmentWriter
from cowfs.blocks.writer import BlockWriter
from cowfs.engine import Engine
from cowfs.formats import inode as fmt
from cowfs.formats.inode import Content, InodeRecord, encode_dirent, encode_inode
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, ROOT_INO, Geometry
from cowfs.tree import radix, root
from cowfs.tree.content import directory_content
from cowfs.tree.names import directory_key

FILES_A_DIRECTORY = 100
TIME_NS = 1_700_000_000_000_000_000


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


def synthetic_workspace(engine: Engine, name: str, files: int) -> None:
    """A workspace of ``files`` small files, 100 to a directory, built as an import would store it.

    Inode numbers: directories first, in the order of their names, then files.
    """
    geometry = engine.store.superblock.geometry
    segment_id, path = engine.segments.take()
    segment = SegmentWriter(path, segment_id)
    writer = BlockWriter(engine.blocks, segment)
    directories = -(-files // FILES_A_DIRECTORY)
    first_file = 2 + directories

    def records() -> Iterator[tuple[int, bytes]]:
        entries = [(2 + number, stat.S_IFDIR >> 12, b"d%06d" % number) for number in range(directories)]
        yield ROOT_INO, _directory(writer, geometry, entries, ())
        for number in range(directories):
            inos = range(first_file + number * FILES_A_DIRECTORY, first_file + min(files, (number + 1) * 100))
            entries = [(ino, stat.S_IFREG >> 12, b"f%07d" % ino) for ino in inos]
            yield 2 + number, _directory(writer, geometry, entries, ((ROOT_INO, b"d%06d" % number),))
        for index in range(files):
            ino = first_file + index
            data = b"file %d\n" % ino
            link = (2 + index // FILES_A_DIRECTORY, b"f%07d" % ino)
            yield (
                ino,
                encode_inode(_record(stat.S_IFREG | 0o644, 1, len(data), 8, Content(fmt.INLINE, 1, data), (link,))),
            )

    table = radix.build(writer, records(), geometry, inline=False)
    made = root.write_root(writer, table)
    writer.sync()
    found, relied = writer.batch()
    writer.committed(engine.index.commit(found, relied))
    writer.close()
    engine.segments.release(segment_id)
    engine.adopt(name, made, first_file + files, 0, files + directories + 1)


def _directory(
    writer: BlockWriter, geometry: Geometry, entries: list[tuple[int, int, bytes]], links: tuple[tuple[int, bytes], ...]
) -> bytes:
    used: dict[int, bytes] = {}
    for ino, kind, name in entries:
        cookie = directory_key(name, geometry.key_bits) << 8
        while cookie in used:
            cookie += 1
        used[cookie] = encode_dirent(ino, kind, name)
    pointer = radix.build(writer, sorted(used.items()), geometry, inline=True)
    children = sum(kind == stat.S_IFDIR >> 12 for _, kind, _ in entries)
    content = directory_content(pointer)
    return encode_inode(_record(stat.S_IFDIR | 0o755, 2 + children, DIRECTORY_SIZE, DIRECTORY_BLOCKS, content, links))


def _record(
    mode: int, nlink: int, size: int, blocks: int, content: Content, links: tuple[tuple[int, bytes], ...]
) -> InodeRecord:
    return InodeRecord(
        mode, 0, 0, nlink, 0, size, blocks, 17, TIME_NS, TIME_NS, TIME_NS, TIME_NS, (), links, content
    )  # fmt: skip


def timed(call: Callable[[], object]) -> float:
    """Seconds that ``call`` takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


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


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(scenario: str, results: dict[str, Any]) -> None:
    """Print the results as JSON, with the machine they were measured on."""
    machine = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
    }
    print(json.dumps({"scenario": scenario, "machine": machine, "results": results}, indent=2))
