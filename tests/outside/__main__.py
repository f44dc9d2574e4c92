"""``python -m tests.outside``: run suites that others wrote, unchanged, in a mounted workspace and on ext4.

Needs root, and the temporary directory on ext4. What is not installed is said, with the package that brings it.
Exit code 1 when something fails on cowfs that passes on ext4, when fsck finds anything, or when a process died.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.conformance.differences import TRANSPORTS
from tests.conformance.suite import native_directory
from tests.outside.places import served
from tests.outside.running import Report, play
from tests.outside.suites import SUITES


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="suites (fio), or checks (fio:mmap); default: all")
    parser.add_argument("--transport", choices=TRANSPORTS, default="kernel")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and what goes on to standard error")
    options = parser.parse_args()

    only = options.only or [suite.name for suite in SUITES]
    if strange := {each.partition(":")[0] for each in only} - {suite.name for suite in SUITES}:
        parser.error(f"no such suite: {', '.join(sorted(strange))}")
    report = Report(options.transport)
    said = sys.stderr if options.json else sys.stdout
    with tempfile.TemporaryDirectory(prefix="outside-") as scratch:
        directory = Path(scratch)
        with served(options.transport, directory) as cowfs, native_directory(directory / "ext4") as ext4:
            for each in play(only, ext4, cowfs, report):
                print(each, file=said, flush=True)
    if not (report.compared or report.missing or report.faults):
        parser.error(f"no such check: {', '.join(only)}")
    print(json.dumps(report.as_json(), indent=2) if options.json else report.summary())
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
