"""``python -m tests.mirror``: random events in several workspaces, compared with plain directories all the time.

Prints one JSON object for each seed; exit code 1 when anything was lost, with the last events on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from pathlib import Path

from tests.mirror.campaign import Campaign


def run(seed: int, seconds: float, kills: bool, directory: Path) -> bool:
    """One store; whether everything was right."""
    campaign = Campaign(directory, seed, kills=kills)
    wrong = ""
    try:
        campaign.run(1 << 30, seconds)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        print("\n".join(campaign.events), file=sys.stderr)
        print(campaign.live.log()[-15_000:], file=sys.stderr)
    finally:
        campaign.close()
    print(json.dumps({"seed": seed, "wrong": wrong, **dict(sorted(campaign.counts.items()))}), flush=True)
    return not wrong


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each seed")
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--directory", type=Path, help="an empty one, kept; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-mirror-") as scratch:
        for seed in options.seeds:
            directory = (options.directory or Path(scratch)) / str(seed)
            directory.mkdir(parents=True)
            if not run(seed, options.seconds, not options.no_kills, directory):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
