"""The verbs on a live mount served by this process: with 0 and with 1,000 files open for writing.

What the mount adds to ``verbs.py``: every writable inode is flushed, and after a restore the kernel is told of every
changed inode and name and asks again for the size of each open one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import common, daemons, trees
from bench.common import Series
from cowfs.engine import Engine
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport

CHANGES = 100


@contextmanager
def mounted(
    engine: Engine, name: str, path: Path, server: Server, change: Callable[[Transport], None] | None = None
) -> Iterator[Path]:
    """The workspace ``name`` mounted at ``path`` and served by this process: ``server``, which ends then.

    ``change`` is called with the transport before it begins to serve.
    """
    workspace = engine.host.workspace(engine.open_workspace(name))
    mounts.prepare_mountpoint(str(path))
    transport = Transport(server, mounts.mount(str(path), connection_id=1), workspace)
    if change is not None:
        change(transport)
    transport.start()
    workspace.transport = transport
    try:
        yield path
    finally:
        workspace.transport = None
        transport.unmount(force=True)
        server.close()


def measure(engine: Engine, name: str, root: Path, files: int, writers: int, turns: int) -> dict[str, Any]:
    """The verbs with ``writers`` files open for writing, none of them dirty."""
    series = Series()
    one, many = trees.spread(1, files), trees.spread(CHANGES, files)
    held = daemons.hold_open(root, trees.spread(writers, files))
    try:
        for turn in range(turns):
            daemons.overwrite(root, one, turn)
            series.time("checkpoint_durable", engine.checkpoint, name, "one change")
            series.time("checkpoint_clean", engine.checkpoint, name, "nothing changed")
            series.time("fork", engine.fork, f"{name}@base", f"{name}-{writers}-{turn}")
            engine.restore(name, "@base", discard=True)
            daemons.overwrite(root, many, turn)
            series.time("restore_100_changes", engine.restore, name, "@base")
    finally:
        for fd in held:
            os.close(fd)
    return series.summaries()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 100_000])
    parser.add_argument("--writers", type=int, nargs="*", default=[0, 1_000])
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with common.scratch() as directory, common.engine_at(directory / "store") as engine:
        for files in options.files:
            name = f"n{files}"
            trees.synthetic_workspace(engine, name, files)
            engine.checkpoint(name, "base", "base")
            with mounted(engine, name, directory / name, Server()) as root:
                results[str(files)] = {
                    str(writers): measure(engine, name, root, files, writers, options.turns)
                    for writers in options.writers
                }
    common.report("live", {"files": results})


if __name__ == "__main__":
    main()
