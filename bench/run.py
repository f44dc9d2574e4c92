"""Run every scenario, one process after the other, into ``build/bench/NAME.json``; then render the document.

    python -m bench.run [--quick] [NAME ...]

``--quick`` uses small sizes, to check the scenarios themselves; its JSON goes to ``build/bench-quick`` and no document
changes. A scenario that fails leaves no JSON and makes the exit code 1; the others still run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from bench import common, render

QUICK_RESULTS = common.REPOSITORY / "build" / "bench-quick"

QUICK: dict[str, tuple[str, ...]] = {
    "verbs": ("--files", "1000", "10000", "--turns", "3", "--forks", "50"),
    "live": ("--files", "1000", "--turns", "2"),
    "api": ("--files", "1000", "10000", "--turns", "2", "--forks", "50", "--mounted", "6"),
    "cli": ("--files", "1000", "--turns", "2"),
    "peers": ("--files", "500", "--turns", "2"),
    "import_tree": ("/usr/lib/python3", "--files", "500", "--turns", "1"),
    "settle": ("--files", "1000", "--turns", "2"),
    "replay": ("--records", "10000", "--turns", "2"),
    "requests": ("--count", "500", "--turns", "2", "--storm", "500", "--storms", "2"),
    "files": ("--files", "300", "--turns", "1"),
    "disks": ("--small", "--turns", "1"),
    "scale": ("--directory", "2000", "--workspace", "1000", "--programs", "4", "--seconds", "0.5", "--turns", "1"),
    "shared": ("--files", "50", "300", "--mounts", "5"),
    "gc": ("--snapshots", "30", "--turns", "2"),
    "isolation": ("--files", "100", "--turns", "1", "--calls", "10"),
}
"""Every scenario, with the arguments that make it short."""


def run(name: str, arguments: tuple[str, ...], directory: Path) -> bool:
    """Run one scenario; whether it succeeded."""
    result, part = directory / f"{name}.json", directory / f"{name}.json.part"
    result.unlink(missing_ok=True)
    environment = dict(os.environ) | common.environment()
    began = time.monotonic()
    with part.open("wb") as output:
        command = [sys.executable, "-m", f"bench.{name}", *arguments]
        code = subprocess.run(command, stdout=output, env=environment, cwd=common.REPOSITORY, check=False).returncode
    if code == 0:
        part.rename(result)
    print(f"{name}: {'done' if code == 0 else f'failed with {code}'} in {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(QUICK)}; default: all")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.names) - set(QUICK):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    directory = QUICK_RESULTS if options.quick else render.RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    done = [run(name, QUICK[name] if options.quick else (), directory) for name in options.names or QUICK]
    if not options.quick and any(done):
        render.rewrite(render.RESULTS)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
