"""``python -m tests.torture``: kill every process of a daemon at random while programs run and verbs are called.

Prints one JSON object; exit code 1 when anything was lost or a program saw an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.torture.campaign import run


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=4, help="at least")
    parser.add_argument("--kills", type=int, default=0, help="at least")
    parser.add_argument("--rate", type=float, default=1.0, help="kills per second")
    parser.add_argument("--everything", type=int, default=4, help="every so many rounds all is killed at once")
    parser.add_argument("--directory", type=Path, help="an empty one, kept; default: a temporary one")
    options = parser.parse_args()
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cowfs-torture-") as scratch:
        report = run(
            options.directory or Path(scratch), options.seed, seconds=options.seconds, rounds=options.rounds,
            kills=options.kills, per_second=options.rate, everything=options.everything,
        )  # fmt: skip
        log = report.losses or report.errors
        if log:
            directory = options.directory or Path(scratch)
            print((directory / "store" / "daemon" / "log").read_text()[-20_000:], file=sys.stderr)
    print(json.dumps(report.as_json(), indent=2))
    return 1 if log else 0


if __name__ == "__main__":
    sys.exit(main())
