"""Where should the thread that serves a mount run, and should it spin? Untar, alone and in company.

Ways: ``no_spin``: the reader sleeps as soon as nothing is to be read. ``spin``: as the daemon does it, see
:mod:`cowfs_daemon.fuse.server`. ``follow``: spinning, on the CPU that the caller ran on last (``/proc/PID/stat``,
looked at once in ``--every`` requests). Loads: ``alone``; ``two_untars`` at once in one mount, until both have ended;
``two_hogs``: while two programs merely compute. The server is this process; nobody is placed anywhere but the reader
that follows. ``wall``: what the untar took; ``server_cpu``: what this process did. Ways and loads take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from bench import common, live, trees
from bench.common import Series
from cowfs.engine import Engine
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport

WAYS = ("no_spin", "spin", "follow")
LOADS = {"alone": (1, 0), "two_untars": (2, 0), "two_hogs": (1, 2)}
"""Name -> untars at once, and programs that merely compute meanwhile."""

_CPU_FIELD = 39 - 3  # of /proc/PID/stat, after the name


def caller_cpu(pid: int) -> int:
    """The CPU that a process ran on last. Raises OSError when it is gone."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_CPU_FIELD])


def following(every: int) -> Callable[[Transport], None]:
    """Has the reader of a transport move to where its callers run."""

    def change(transport: Transport) -> None:
        session = cast(Any, transport.session)
        answer, answered, here = session._answer, 0, -1

        def answer_there(view: Any, request: bytearray, size: int) -> None:
            nonlocal answered, here
            answer(view, request, size)
            answered += 1
            if answered % every == 0:
                with contextlib.suppress(OSError):  # the caller has ended
                    cpu = caller_cpu(protocol.credentials(request)[2])
                    if cpu != here:
                        os.sched_setaffinity(0, {cpu})  # of this thread
                        here = cpu

        session._answer = answer_there

    return change


@contextlib.contextmanager
def served(directory: Path, every: int) -> Iterator[tuple[Engine, dict[str, Path]]]:
    """A store, and a mount served in each way."""
    with common.engine_at(directory / "store") as engine, contextlib.ExitStack() as stack:
        roots = {}
        for way in WAYS:
            engine.create(way)
            server = Server(spin_s=0) if way == "no_spin" else Server()
            change = following(every) if way == "follow" else None
            roots[way] = stack.enter_context(live.mounted(engine, way, directory / way, server, change))
        yield engine, roots


def untar(archive: Path, directories: Sequence[Path]) -> None:
    """Unpack into each directory at once. Raises CalledProcessError."""
    running = [subprocess.Popen(["tar", "-xf", archive, "-C", each], env=common.environment()) for each in directories]
    for process in running:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def settle(engine: Engine) -> None:
    """Settle everything, so that no turn is slowed down because the one before has not been settled."""
    for way in WAYS:
        engine.checkpoint(way, "turn")
    while engine.settle_next():
        pass


def measure(engine: Engine, roots: dict[str, Path], archive: Path, turns: int) -> dict[str, Any]:
    """Way -> load -> ``wall`` and ``server_cpu``."""
    wall, cpu = ({way: Series() for way in roots} for _ in range(2))
    for turn in range(turns):
        for load, (untars, hogs) in LOADS.items():
            for way, root in roots.items():
                places = [root / f"{load}-{turn}-{number}" for number in range(untars)]
                for place in places:
                    place.mkdir()
                with common.meanwhile(*[common.python(common.SPIN)] * hogs):
                    began = time.process_time()
                    wall[way].time(load, untar, archive, places)
                    cpu[way].seconds.setdefault(load, []).append(time.process_time() - began)
                common.run("rm", "-rf", *places)
        settle(engine)
    return {
        way: {load: {"wall": wall[way].summaries()[load], "server_cpu": cpu[way].summaries()[load]} for load in LOADS}
        for way in roots
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--every", type=int, default=16, help="requests between two looks at where the caller runs")
    options = parser.parse_args()
    with common.scratch() as directory:
        size = trees.small_files(directory / "source" / "tree", options.files)
        archive = directory / "files.tar"
        common.run("tar", "-C", directory / "source", "-cf", archive, "tree")
        with served(directory, options.every) as (engine, roots):
            ways = measure(engine, roots, archive, options.turns)
    results = {"files": options.files, "bytes": size, "every": options.every, "ways": ways}
    common.report("placement", results)


if __name__ == "__main__":
    main()
