"""Power is lost after every operation of recorded runs: ``python -m tests.fault.power --seeds 20 [--steps 60]``.

A run: random operations and verbs on a store that lies on a recording filesystem, by processes that are killed now
and then; then every state that the disk may have been in is opened and judged. The last run of each seed begins
with a disk that a power loss has left. Prints a JSON report; exit code 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from cowfs.engine import Engine
from cowfs.layers.journal import Limits
from tests.fault.power_mounted import MountedRun, look_by_name, opens_as_left
from tests.support.actor import Actor
from tests.support.disk import CORNERS, Disk, Image, read_log, write_image
from tests.support.lab import Lab, Ticks
from tests.support.losses import STORE, History, Judge, Moment, Observer, Verdict, observe
from tests.support.recordfs import Recorded

LIMITS = Limits(file_records=7)
SEGMENT_BYTES = 1_000
EXIT_FAILED = 3


@contextmanager
def in_memory(prefix: str = "cowfs-power-") -> Iterator[Path]:
    """A folder in memory where there is one: thousands of stores are made."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Run:
    """One recorded run in ``folder``; ``moments`` and the recording are its result."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.moments: list[Moment] = []
        self._recorded = Recorded(folder)
        self._steps = self._sessions = 0

    @property
    def log(self) -> Path:
        """The recording."""
        return self._recorded.log

    @property
    def operations(self) -> int:
        """How many operations of the disk there have been."""
        return self._recorded.operations

    def begin(self, left: Moment | None = None) -> None:
        """A new store; or one that a power loss has ``left`` in the backing directory."""
        if left is None:
            Engine.create_store(self._recorded.path / STORE, Ticks(), bytes(range(16)))
            left = Moment("create store", 0, {}, {}, {}, frozenset())
        self.moments.append(left._replace(operations=self._recorded.operations, durable=frozenset(left.live)))

    def session(self, steps: int, *, inline: bool, kill_at: int = 0, kinds: Sequence[str] = ()) -> int:
        """A process opens the store, does so many steps, and ends: in order, or killed at an operation (from 1 on).

        ``kinds``: of the first steps; the others are random. Returns how many operations of the disk it did.
        """
        first = self._recorded.operations
        self._sessions += 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = EXIT_FAILED
            try:
                os.close(reader)
                self._work(steps, inline, kinds, writer)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(writer)
        if kill_at:
            self._recorded.kill_at(first + kill_at, child)
        with open(reader, "rb") as pipe:
            while True:
                try:
                    moment: Moment = pickle.load(pipe)
                except (EOFError, pickle.UnpicklingError):
                    break
                self.moments.append(moment)
        self._recorded.kill_at(0, 0)
        _, status = os.waitpid(child, 0)
        self._steps += steps
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the process failed"
        return self._recorded.operations - first

    def _work(self, steps: int, inline: bool, kinds: Sequence[str], pipe: int) -> None:
        lab = Lab.existing(
            self._recorded.path / STORE, LIMITS, inline=inline, first_id=(self.seed * 100 + self._sessions) * 1_000_000,
            segment_bytes=SEGMENT_BYTES,
        )  # fmt: skip
        lab.clock.now += (self.seed * 100 + self._sessions) * 1_000_000_000_000
        source = self.folder / f"source-{self._sessions}"
        source.mkdir()
        actor, observer = Actor(lab, source), Observer()
        operations = self._recorded

        def tell(moment: Moment) -> None:
            data = pickle.dumps(moment)
            while data:
                data = data[os.write(pipe, data) :]

        tell(observer.look(lab, operations.operations, f"open {self._sessions}"))
        for number in range(self._steps, self._steps + steps):
            done = actor.step(self.seed, number, dict(enumerate(kinds, self._steps)).get(number, ""))
            count = operations.operations
            tell(observer.look(lab, count, done.name, done.durable))
        lab.engine.close()

    def close(self) -> None:
        """Let go of the mount; the recording stays."""
        self._recorded.close()


def random_run(folder: Path, seed: int, steps: int, left: tuple[Image, Moment] | None = None) -> Run:
    """Several sessions in a row, about ``steps`` steps in all; ``left``: the disk to begin with."""
    if left is not None:
        write_image(left[0], folder / "backing")
    run = Run(folder, seed)
    random = Random(f"sessions {seed}")
    try:
        run.begin(None if left is None else left[1])
        while steps > 0:
            some = min(random.randrange(8, 30), steps)
            kill_at = random.randrange(1, 8 * some) if random.random() < 0.6 else 0
            run.session(some, inline=random.random() < 0.6, kill_at=kill_at)
            steps -= some
        run.session(1, inline=True)  # what the last one was killed at can be seen now
    finally:
        run.close()
    return run


def image_of(log: Path, first: int, random: Random) -> Image:
    """A disk as some power loss leaves it, after operation ``first`` or later."""
    disk, entries = Disk(), read_log(log)
    last = sum(1 for _ in read_log(log))
    for _ in range(random.randrange(first, last + 1)):
        disk.apply(next(entries))
    return disk.random(random)


def left_by(run: Run, scratch: Path, seed: int) -> tuple[Image, Moment] | None:
    """A disk as some power loss in a run leaves it, and what a store on it shows."""
    image = image_of(run.log, run.moments[0].operations, Random(f"left {seed}"))
    seen = observe(image, scratch / "left", usable=False)
    if seen.problems:
        return None  # judged as a state of that run
    return image, Moment("left by a power loss", 0, seen.live, seen.snapshots, seen.names, frozenset())


def campaign(folder: Path, seed: int, steps: int, *, randoms: float, processes: int, keep: Path | None) -> Verdict:
    """A run, and one on what a power loss in it has left; the verdict on both."""
    verdict = Verdict()
    left: tuple[Image, Moment] | None = None
    for number in range(2):
        place = folder / f"{seed}-{number}"
        place.mkdir()
        run = random_run(place, seed * 2 + number, steps if number == 0 else steps // 2, left)
        judge = Judge(
            run.log, History(run.moments), place, seed=seed, randoms=randoms, usable_every=10,
            keep=None if keep is None else keep / place.name,
        )  # fmt: skip
        verdict.add(judge.run(processes))
        left = left_by(run, place, seed)
        if verdict.findings and keep is not None:
            with suppress(OSError):
                shutil.copy(run.log, keep / place.name / "log")
                (keep / place.name / "moments").write_bytes(pickle.dumps(run.moments))
        shutil.rmtree(place)
        if left is None or verdict.findings:
            break
    return verdict


BEFORE = ("create", "operate", "operate", "checkpoint", "operate", "sync", "operate", "fork", "operate")
AFTER = ("operate", "checkpoint", "create", "label", "settle", "fork", "operate", "sync", "operate")
FIRST = "first create"
KILLED = (FIRST, "compact", "settle", "checkpoint", "restore", "fork", "remove_one", "reopen", "create")


def killed_first(folder: Path, kind: str, *, everywhere: bool, processes: int) -> Verdict:
    """A process is killed at every operation of a step; another goes on; then power is lost.

    What the first has done is there to be seen, and perhaps not durable: the second must not rely on it. Not
    ``everywhere``: only right before something is synced, and random states are left out.
    """
    verdict = Verdict()
    points = [0]
    while points:
        kill_at = points.pop()
        place = folder / f"{kind}-{kill_at}"
        place.mkdir()
        run = Run(place, 7)
        try:
            run.begin()
            if kind != FIRST:
                run.session(len(BEFORE), inline=True, kinds=BEFORE)
            start = run.operations
            done = run.session(1, inline=True, kinds=(kind.split()[-1],), kill_at=kill_at)
            run.session(len(AFTER), inline=True, kinds=AFTER)
        finally:
            run.close()
        if not kill_at:
            kinds = [entry[0] for entry in read_log(run.log)][start : start + done + 1]
            points = [at for at in range(1, done + 1) if everywhere or kinds[at] == "sync"]
        judge = Judge(
            run.log, History(run.moments), place, seed=7, randoms=int(everywhere), usable_every=50,
            corners=CORNERS if everywhere else ("synced", "data"),
        )  # fmt: skip
        found = judge.run(processes, start)
        found.findings = [f"{kind} killed at operation {kill_at}: {each}" for each in found.findings]
        verdict.add(found)
        shutil.rmtree(place)
    return verdict


def mounted(folder: Path, seed: int, steps: int, *, randoms: float, processes: int, daemons: int) -> Verdict:
    """A run through the daemon; ``daemons``: on so many of what it may leave, one is started."""
    place = folder / f"mounted-{seed}"
    run = MountedRun(place, seed)
    try:
        run.run(steps)
    finally:
        run.close()
    judge = Judge(
        run.recorded.log, History(run.moments), place, seed=seed, randoms=randoms, usable_every=20, look=look_by_name
    )
    verdict = judge.run(processes)
    for number in range(daemons):
        image = image_of(run.recorded.log, run.moments[0].operations, Random(f"daemon {seed} {number}"))
        write_image(image, place / "left")
        verdict.findings += opens_as_left(place / "left" / STORE)
        verdict.kinds["daemon"] += 1
        shutil.rmtree(place / "left")
    shutil.rmtree(place)
    return verdict


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--steps", type=int, default=60, help="operations and verbs in each run")
    parser.add_argument("--randoms", type=float, default=2.0, help="random states after each operation of the disk")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further seed after so long")
    parser.add_argument("--keep", type=Path, help="where to keep what is wrong")
    parser.add_argument("--killed", action="store_true", help="first kill at every operation of some steps, too")
    chosen = parser.parse_args()
    began = time.monotonic()
    total, done = Verdict(), 0
    processes = os.cpu_count() or 1

    def judged(name: str, found: Verdict) -> None:
        found.findings = [f"{name}: {each}" for each in found.findings]
        total.add(found)
        print(f"{name}: {found.states} states, {len(found.findings)} findings", file=sys.stderr, flush=True)

    with in_memory() as folder:
        for kind in KILLED if chosen.killed else ():
            judged(kind, killed_first(folder, kind, everywhere=True, processes=processes))
        for seed in range(chosen.seed, chosen.seed + chosen.seeds):
            if time.monotonic() - began > chosen.seconds:
                break
            randoms = chosen.randoms
            judged(
                f"seed {seed}",
                campaign(folder, seed, chosen.steps, randoms=randoms, processes=processes, keep=chosen.keep),
            )
            judged(
                f"seed {seed}, mounted",
                mounted(folder, seed, 2 * chosen.steps, randoms=randoms, processes=processes, daemons=2),
            )
            done += 1
    report = vars(total) | {
        "kinds": dict(total.kinds), "seed": chosen.seed, "seeds": done, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
