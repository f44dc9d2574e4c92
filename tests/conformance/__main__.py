"""``python -m tests.conformance``: compare a mount with the disk's own filesystem. Needs root, on ext4."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.conformance.suite import native_directory, play
from tests.support.live import live_store


def main() -> int:
    """Print what differs; exit code 1 when that is not what is documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one-in", type=int, default=1, help="play one case in so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-conformance-") as scratch:
        directory = Path(scratch)
        with live_store(directory) as live, native_directory(directory / "native") as native:
            live.engine.create("ws")
            report = play(native, live.mount("ws"), options.one_in, directory)
    for line in report.unknown:
        print(line)
    for name in report.stale:
        print(f"listed as a difference, but there is none: {name}")
    known = {name: count for name, count in sorted(report.known.items()) if " in " not in name}
    print(json.dumps({"cases": report.cases, "checks": report.checks, "unknown": len(report.unknown), "known": known}))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
