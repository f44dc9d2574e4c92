"""The verbs as whole ``cowfs`` processes, from fork(2) to exit, on a mounted workspace of the real daemon.

Beside them the floors: an interpreter that does nothing, and one that imports click.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench import common, daemons, trees
from bench.common import Series

CHANGES = 100
BEGIN = (sys.executable, "-m", "cowfs_cli")


def measure(store: Path, root: Path, files: int, turns: int) -> dict[str, Any]:
    """Every command in turn."""
    env = common.environment(COWFS_STORE=str(store))
    series = Series()
    name = f"n{files}"
    one, many = trees.spread(1, files), trees.spread(CHANGES, files)

    def time_command(label: str, *arguments: str) -> None:
        series.time(label, common.run, *arguments, env=env)

    for turn in range(turns):
        time_command("python_pass", sys.executable, "-c", "pass")
        time_command("python_click", sys.executable, "-c", "import click")
        daemons.overwrite(root, one, turn)
        time_command("checkpoint_durable", *BEGIN, "checkpoint", name, "-m", "one change")
        time_command("checkpoint_clean", *BEGIN, "checkpoint", name, "-m", "nothing changed")
        time_command("fork", *BEGIN, "fork", f"{name}@base", f"{name}-fork-{turn}")
        common.run(*BEGIN, "restore", name, "@base", "--discard", env=env)
        daemons.overwrite(root, many, turn)
        time_command("restore_100_changes", *BEGIN, "restore", name, "@base")
        time_command("path", *BEGIN, "path", name)
        time_command("log_json", *BEGIN, "log", name, "--json")
    return series.summaries()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args()
    with common.scratch() as directory:
        daemons.make_store(directory / "store", [options.files])
        with daemons.serving(directory / "store") as client:
            workspace = client.workspace(f"n{options.files}")
            workspace.checkpoint("base", label="base")
            root = Path(workspace.path)
            commands = measure(Path(client.path), root, options.files, options.turns)
    common.report("cli", {"files": options.files, "commands": commands})


if __name__ == "__main__":
    main()
