"""``python -m tests.endurance``: thousands of cycles of verbs; prints what the daemon has come to after each part.

Prints one JSON object: a list of figures, and what fsck says at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.endurance.cycles import Cycles


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500, help="cycles between two figures")
    parser.add_argument("--cache", default="4M", help="of each worker: small, so that it is soon full")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="cowfs-endurance-") as scratch:
        cycles = Cycles(Path(scratch), options.cache)
        try:
            for _ in range(0, options.cycles, options.every):
                cycles.run(options.every)
                figures.append(cycles.figures().as_json())
                print(json.dumps(figures[-1]), file=sys.stderr, flush=True)
        except BaseException:
            print(cycles.live.log()[-10_000:], json.dumps(cycles.client.daemon(), indent=2), file=sys.stderr)
            raise
        finally:
            checked = cycles.close()
    print(json.dumps({"figures": figures, "fsck": checked}, indent=2))
    return 0 if checked == "clean" else 1


if __name__ == "__main__":
    sys.exit(main())
