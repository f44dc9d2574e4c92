"""Blocks that die and are written again, while garbage is collected without a pause.

``python -m tests.fault.gc_race SECONDS DIRECTORY [SEED]`` prints a JSON object; exit code 1 when anything is wrong.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from tests.support.lab import Lab

CONTENTS, FILES, SIZE = 60, 12, 12_000
_NOISE = Random(0).randbytes(SIZE + CONTENTS)


def content(number: int) -> bytes:
    """One of few contents, so that the same blocks are needed, not needed, and needed again."""
    return _NOISE[number : number + SIZE]


class Race:
    """A store with workspaces that change, in threads; :meth:`run` for so long, then judge."""

    def __init__(self, directory: Path, seed: int, workspaces: int = 2) -> None:
        self._lab = Lab(directory / "store", inline=False)
        self._random = Random(seed)
        self._names = [f"ws{number}" for number in range(workspaces)]
        self._source = directory / "source"
        self._source.mkdir()
        self._until = 0.0
        self._frozen = threading.Event()
        self.counts = {
            "checkpoints": 0,
            "restores": 0,
            "removed": 0,
            "collections": 0,
            "swept": 0,
            "reads": 0,
            "imports": 0,
        }
        self.wrong: list[str] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """Run; the report."""
        for name in self._names:
            self._lab.engine.create(name)
        self._until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._guarded, args=(self._change, name)) for name in self._names]
        threads += [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self._settle, self._import, self._collect)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._lab.engine.settle()
        self._lab.engine.collect(False, lambda _: None)
        self.wrong += [str(problem) for problem in self._lab.engine.fsck(deep=True)]
        self._lab.close()
        return self.counts | {"wrong": self.wrong}

    def _guarded(self, work: Any, *arguments: Any) -> None:
        try:
            while time.monotonic() < self._until and not self.wrong:
                work(*arguments)
        except Exception as error:
            self.wrong.append(f"{work.__name__}: {error!r}")

    def _change(self, name: str) -> None:
        """A few files change; then a snapshot, perhaps a restore, and old snapshots go. All is read past the caches."""
        random = Random(self._random.random())
        engine, files = self._lab.engine, self._lab.files(name)
        workspace = self._lab.workspace(name)
        held: dict[str, int] = {}
        with workspace.lock:
            for number in random.sample(range(FILES), 4):
                held[f"f{number}"] = random.randrange(CONTENTS)
                files.write(f"f{number}", content(held[f"f{number}"]))
        made = engine.checkpoint(name, json.dumps(held)).snapshot
        self._frozen.set()
        self.counts["checkpoints"] += 1
        snapshots = [each.id for each in engine.log(name)]
        if random.randrange(4) == 0:
            engine.restore(name, random.choice(snapshots[:5]), discard=True)
            self.counts["restores"] += 1
        for old in snapshots[6:]:
            engine.remove(old)
            self.counts["removed"] += 1
        engine.blocks._raw.clear()
        for path, number in held.items():
            if b"".join(engine.show(made.id, path.encode())) != content(number):
                self.wrong.append(f"{path} in {made.id} is not what was written")
            self.counts["reads"] += 1

    def _settle(self) -> None:
        self._frozen.wait(0.1)
        self._frozen.clear()
        self._lab.engine.settle()

    def _import(self) -> None:
        """A tree of the same contents, beside settling; it is read past the caches, and goes again."""
        random = Random(self._random.random())
        held = {f"f{number}": random.randrange(CONTENTS) for number in range(FILES)}
        for path, number in held.items():
            (self._source / path).write_bytes(content(number))
        engine = self._lab.engine
        engine.import_tree(bytes(self._source), "imported", (), lambda _: None)
        self.counts["imports"] += 1
        engine.blocks._raw.clear()
        for path, number in held.items():
            if b"".join(engine.show("imported", path.encode())) != content(number):
                self.wrong.append(f"{path} is not what was imported")
            self.counts["reads"] += 1
        engine.remove("imported")

    def _collect(self) -> None:
        self.counts["swept"] += self._lab.engine.collect(False, lambda _: None).blocks
        self.counts["collections"] += 1


def main() -> int:
    """See the module."""
    seconds, directory, *seed = sys.argv[1:]
    report = Race(Path(directory), int(seed[0]) if seed else 1).run(float(seconds))
    print(json.dumps(report))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
