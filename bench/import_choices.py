"""Inline limits and inode numberings, on two similar trees: stored size and speed, as JSON.

    python bench/import_choices.py [SOURCE] [--runs N]

A is SOURCE; B is a copy of A in which, near the front of the walk, some files were added, changed and removed. For each
choice both are imported into one fresh store, A first. Figures per choice (times are medians of N runs, in seconds):
``a_seconds``, ``b_seconds``; ``a_bytes``, ``b_bytes``: bytes added to the segments and to the index by each;
``a_blocks``, ``b_blocks``: blocks that each added; ``walk_seconds``: list every directory of B and look up every inode,
with a fresh reader; ``walk_reads``: blocks read for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import SegmentWriter, segment_path
from cowfs.blocks.writer import BlockWriter
from cowfs.formats.inode import decode_dirent, decode_inode
from cowfs.geometry import Geometry
from cowfs.settle.importer import ImportResult, import_directory
from cowfs.settle.numbering import NUMBERINGS
from cowfs.tree import content, radix
from cowfs.tree.root import read_root

INLINE_LIMITS = (0, 512, 4096)
EVERY = 10  # one file in so many is changed, and as many are removed, in the first tenth of the walk


def main() -> None:
    """Measure every choice and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="?", default="/usr/lib/python3")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="import-choices-"))
    try:
        similar = work / "b"
        subprocess.run(["cp", "-a", options.source, similar], check=True)
        change(similar)
        rows = []
        for inline_limit in INLINE_LIMITS:
            for rule in NUMBERINGS:
                runs = [measure(work, options.source, similar, inline_limit, rule) for _ in range(options.runs)]
                row: dict[str, Any] = {"inline_limit": inline_limit, "numbering": rule}
                for key in runs[0]:
                    row[key] = round(statistics.median(run[key] for run in runs), 4)
                rows.append(row)
                print(json.dumps(row), file=sys.stderr)
    finally:
        shutil.rmtree(work)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    print(json.dumps({"source": options.source, "runs": options.runs, "machine": machine, "choices": rows}, indent=1))


def change(tree: Path) -> None:
    """Add, change and remove files near the front of a tree."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    front = files[: max(len(files) // 10, 10)]
    for path in front[::EVERY]:
        with path.open("ab") as file:
            file.write(b"# changed\n")
    for path in front[3::EVERY]:
        path.unlink()
    added = tree / "000-added"
    added.mkdir()
    for number in range(20):
        (added / f"file-{number}").write_bytes(b"added %d\n" % number * 50)
        (tree / f"000-{number}").write_bytes(b"added %d\n" % number * 50)


def measure(work: Path, a: str, b: Path, inline_limit: int, rule: str) -> dict[str, float]:
    """Import both trees into a fresh store with this choice."""
    store = work / "store"
    (store / "segments").mkdir(parents=True)
    index = BlockIndex(store / "index", writable=True)
    geometry = Geometry(inline_limit=inline_limit)
    figures: dict[str, float] = {}
    used, blocks = 0, 0
    for name, source in (("a", a), ("b", str(b))):
        start = time.perf_counter()
        result = take(store, index, geometry, source, rule)
        seconds = time.perf_counter() - start
        now = stored_bytes(store, index)
        figures |= {f"{name}_seconds": seconds, f"{name}_bytes": now - used}
        figures[f"{name}_blocks"] = index.statistics().blocks - blocks
        used, blocks = now, index.statistics().blocks
    figures["files"] = result.files
    figures["files_per_second"] = result.files / figures["a_seconds"]
    figures["mb_per_second"] = result.bytes / figures["a_seconds"] / 1e6
    start = time.perf_counter()
    figures["walk_reads"] = walk(store, index, result.root)
    figures["walk_seconds"] = time.perf_counter() - start
    index.close()
    shutil.rmtree(store)
    return figures


def take(store: Path, index: BlockIndex, geometry: Geometry, source: str, rule: str) -> ImportResult:
    """One import, committed."""
    reader = BlockReader(index, store / "segments")
    number = len(list((store / "segments").iterdir())) + 1
    segment = SegmentWriter(segment_path(store / "segments", number), number, target_bytes=1 << 40)
    writer = BlockWriter(reader, segment)
    result = import_directory(writer, source, geometry, rule=rule)
    writer.sync()
    index.commit(*writer.batch())
    writer.close()
    segment.close()
    reader.close()
    return result


def stored_bytes(store: Path, index: BlockIndex) -> int:
    """Bytes of all segments and of the index."""
    return sum(path.stat().st_size for path in (store / "segments").iterdir()) + index.statistics().map_used_bytes


def walk(store: Path, index: BlockIndex, root: bytes) -> int:
    """List every directory and look up every inode; how many blocks that read."""
    reader = CountingReader(index, store / "segments")
    table = read_root(reader, root)
    todo = [1]
    while todo:
        value = radix.lookup(reader, table, todo.pop())
        assert value is not None
        record = decode_inode(value)
        for cookie, entry in radix.scan(reader, content.directory_pointer(record.content)):
            dirent = decode_dirent(cookie, entry)
            if dirent.kind == 4:
                todo.append(dirent.ino)
            else:
                radix.lookup(reader, table, dirent.ino)
    reader.close()
    return reader.count


class CountingReader(BlockReader):
    """Counts the blocks that it is asked for (decoded nodes are cached before)."""

    count = 0

    def get(self, id_: bytes) -> bytes:
        """The raw bytes of a block."""
        self.count += 1
        return super().get(id_)


if __name__ == "__main__":
    main()
