"""``python -m tests.conformance``: compare a mount with the disk's own filesystem. Needs root, on ext4.

With ``--transport pyfuse3`` the mount is one in the foreground.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.conformance.differences import TRANSPORTS
from tests.conformance.suite import native_directory, play, served


def main() -> int:
    """Print what differs; exit code 1 when that is not what is documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one-in", type=int, default=1, help="play one case in so many")
    parser.add_argument(
        "--only", default="", metavar="PATTERNS", help="play these cases alone, such as 'rename/* seek/*'"
    )
    parser.add_argument("--transport", choices=TRANSPORTS, default="kernel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-conformance-") as scratch:
        directory = Path(scratch)
        with served(options.transport, directory) as mounted, native_directory(directory / "native") as native:
            report = play(native, mounted, options.one_in, directory, options.transport, options.only)
    for line in report.unknown:
        print(line)
    for name in report.stale:
        print(f"listed as a difference, but there is none: {name}")
    for name in report.wide:
        print(f"explains more than it did, so that it may hide something: {name}")
    known = {name: count for name, count in sorted(report.known.items()) if " in " not in name}
    print(json.dumps({"cases": report.cases, "checks": report.checks, "unknown": len(report.unknown), "known": known}))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
