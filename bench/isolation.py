"""Does the control plane disturb file operations, and the other way round?

A program makes, writes and looks at files in a mounted workspace: alone, while clients keep asking the API for the list
of workspaces, and, as a floor, while as many processes merely keep the CPUs busy. And: what such a call takes alone,
and while programs write.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from bench import common, daemons
from bench.common import Series

_FILES = """
import os, sys
directory, count = sys.argv[1], int(sys.argv[2])
os.mkdir(directory)
for n in range(count):
    path = f"{directory}/{n}"
    with open(path, "xb") as file:
        file.write(b"x" * 1000)
    assert os.stat(path).st_size == 1000
"""
_LIST = """
import sys
from cowfs import connect
client = connect(sys.argv[1])
print("ready", flush=True)
while True:
    client.workspaces()
"""
_WRITE = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print("ready", flush=True)
while True:
    for n in range(1000):
        os.pwrite(fd, b"x" * 4096, n * 4096)
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    files, calls = Series(), Series()
    with common.scratch() as directory:
        store = directory / "store"
        daemons.make_store(store, [])
        with daemons.serving(store) as client:
            root = Path(client.create("work").path)
            askers = [common.python(_LIST, store)] * options.clients
            spinners = [common.python(common.SPIN)] * options.clients
            for turn in range(options.turns):
                for name, others in (("alone", []), ("clients_list", askers), ("cpus_busy", spinners)):
                    with common.meanwhile(*others):
                        files.time(name, common.run, *common.python(_FILES, root / f"{name}-{turn}", options.files))
            writers = [common.python(_WRITE, root / f"big-{n}") for n in range(options.writers)]
            for name, others in (("alone", []), ("programs_write", writers)):
                with common.meanwhile(*others):
                    for _ in range(options.calls):
                        calls.time(name, client.workspaces)
                        time.sleep(0.005)
    common.report("isolation", _results(options, files, calls))


def _results(options: argparse.Namespace, files: Series, calls: Series) -> dict[str, Any]:
    results = {"files": options.files, "clients": options.clients, "writers": options.writers}
    return results | {"file_operations": files.summaries(), "list_calls": calls.summaries()}


if __name__ == "__main__":
    main()
