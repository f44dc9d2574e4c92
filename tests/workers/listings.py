"""``python -m tests.workers.listings SECONDS [SEED]``: listings of directories that change, whatever happens meanwhile.

In one workspace :data:`tests.support.listings.PROGRAM` runs under checkpoints, settling and moves between workers. In
another, directories are listed all the time while restores change them: what is listed after each must be exactly the
snapshot's names, through a new descriptor and through one that was open before. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.listings import LISTER, PROGRAM
from tests.workers.conftest import Owned

ENTRIES = 1500


def campaign(owned: Owned, seconds: float, seed: int) -> dict[str, int]:
    """Verbs and moves for so long; how many of each were done. Raises AssertionError when a listing is wrong."""
    r, done = random.Random(seed), Counter[str]()
    changing, restored = owned.make("changing"), _Restored(owned)
    workers = owned.two_workers()
    program = [sys.executable, "-c", PROGRAM, str(changing), str(seconds), str(seed)]
    lister = [sys.executable, "-c", LISTER, str(restored.directory)]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(program, **pipes) as busy,  # type: ignore[call-overload]
        subprocess.Popen(lister, stdin=subprocess.PIPE, **pipes) as listing,  # type: ignore[call-overload]
    ):
        assert busy.stdout.readline() == listing.stdout.readline() == "ready\n"
        while busy.poll() is None:
            verb = r.choice(("checkpoint", "settle", "move", "restore", "restore")) if done else "restore"
            done[verb] += 1
            if verb == "checkpoint":
                owned.engine.checkpoint("changing", "meanwhile")
            elif verb == "settle":
                owned.engine.settle()
            elif verb == "move":
                owned.move(r.choice(("changing", "restored")), r.choice(workers))
            else:
                restored.turn(r)
        listing.communicate(timeout=60)
        said = busy.stdout.read()
        assert busy.returncode == 0, said
        done.update(json.loads(said))
    assert listing.returncode == 0
    restored.close()
    return dict(done)


class _Restored:
    """A directory that is restored to one of a few snapshots again and again."""

    def __init__(self, owned: Owned) -> None:
        self.engine = owned.engine
        self.directory = owned.make("restored") / "d"
        self.directory.mkdir()
        self.snapshots: dict[str, list[str]] = {}
        for generation in range(4):
            for number in range(generation, ENTRIES, 3):
                path = self.directory / f"{number:05d}-{'n' * 30}"
                if generation == 0 or not path.exists():
                    path.touch()
                else:
                    path.unlink()
            (self.directory / f"generation-{generation}").touch()
            os.utime(self.directory, ns=(1, 1))  # the kernel does not see from the time that it changed
            made = self.engine.checkpoint("restored", f"generation {generation}").snapshot.id
            self.snapshots[made] = sorted(os.listdir(self.directory))
        self.held = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def turn(self, r: random.Random) -> None:
        """One restore, and what is listed after it."""
        snapshot = r.choice(sorted(self.snapshots))
        self.engine.restore("restored", snapshot, discard=True)
        for where in (self.directory, self.held):
            seen = sorted(os.listdir(where))
            assert seen == self.snapshots[snapshot], (where, set(seen) ^ set(self.snapshots[snapshot]))

    def close(self) -> None:
        os.close(self.held)


def main() -> int:
    """See the module."""
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cowfs-listings-") as directory:
        owned = Owned(Path(directory), 2)
        try:
            done = campaign(owned, seconds, seed)
        finally:
            owned.close()
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "seed": seed, "done": done}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
