"""Importing a directory: files and MB a second, and stored size against ``tar | zstd -3``.

Beside it ``cp -a`` of the same tree to the same disk. Every import goes into a new store; the second import of an equal
tree into a store that has it shows what deduplication leaves to do. The source's pages are warm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench import common, trees
from bench.common import Series
from cowfs.engine import Engine

REAL = ("/usr/lib/python3", "/usr/include")
MB = 1e6


def archive_bytes(source: Path) -> int:
    """Size of ``tar | zstd -3``."""
    with subprocess.Popen(["tar", "-C", source, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(["zstd", "-3", "-q", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE, check=True)
    return len(done.stdout)


def measure(directory: Path, source: Path, turns: int) -> dict[str, Any]:
    """Import ``source`` ``turns`` times."""
    files, size = trees.tree_bytes(source)
    series = Series()
    for turn in range(turns):
        copy, store = directory / "copy", directory / f"store{turn}"
        series.time("cp", common.run, "cp", "-a", source, copy)
        shutil.rmtree(copy)
        with common.engine_at(store) as engine:
            series.time("import", _import, engine, source, "first")
            usage = engine.stat()
            series.time("import_again", _import, engine, source, "second")
            again = engine.stat()
        disk = common.disk_bytes(store)
        shutil.rmtree(store)
    summaries = series.summaries()
    seconds = summaries["import"]["median_ms"] / 1000
    return {
        "files": files,
        "bytes": size,
        **summaries,
        "files_a_second": round(files / seconds),
        "mb_a_second": round(size / MB / seconds, 1),
        "stored_bytes": usage.stored_bytes,
        "stored_again_bytes": again.stored_bytes - usage.stored_bytes,
        "disk_bytes": disk,
        "tar_zstd_bytes": archive_bytes(source),
    }


def _import(engine: Engine, source: Path, name: str) -> None:
    engine.import_tree(os.fsencode(source), name, (), lambda _: None)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="*", default=[path for path in map(Path, REAL) if path.is_dir()])
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with common.scratch() as directory:
        made = directory / "small"
        trees.small_files(made, options.files)
        results["small files"] = measure(directory, made, options.turns)
        for source in options.sources:
            results[str(source)] = measure(directory, source, options.turns)
    common.report("import_tree", {"trees": results})


if __name__ == "__main__":
    main()
