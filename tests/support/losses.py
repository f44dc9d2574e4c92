"""What a store must show after a power loss, given what had been answered by then, and a look at what it shows."""

from __future__ import annotations

import bisect
import multiprocessing
import os
import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.support.disk import CORNERS, Disk, Image, digest, read_log, write_image
from tests.support.faults import prove_usable, snapshot_tree, tree
from tests.support.lab import Lab

STORE = "store"
"""Name of the store in the recorded filesystem."""


class Moment(NamedTuple):
    """A store when a step had been answered, after so many ``operations`` of the disk.

    ``live``: tree of each workspace by its id; ``snapshots``: tree of each; ``names``: name of each workspace, labels
    of each snapshot; ``durable``: the workspaces whose live state the step made durable.
    """

    step: str
    operations: int
    live: dict[str, str]
    snapshots: dict[str, str]
    names: dict[str, str]
    durable: frozenset[str]


class Seen(NamedTuple):
    """What a store shows that was opened after a power loss. ``problems``: of opening it, of fsck, of going on."""

    live: dict[str, str]
    snapshots: dict[str, str]
    names: dict[str, str]
    problems: tuple[str, ...]


class Observer:
    """Looks at a store again and again; a snapshot's tree is looked at once."""

    def __init__(self) -> None:
        self._trees: dict[str, str] = {}

    def look(self, lab: Lab, operations: int, step: str, durable: frozenset[str] = frozenset()) -> Moment:
        """The store now."""
        live = {each.id: tree(lab.workspace(each.name).view) for each in lab.engine.list()}
        self._trees = {
            each: self._trees.get(each) or snapshot_tree(lab, each) for each in sorted(lab.engine.catalog.snapshots)
        }
        names = {each.id: each.name for each in lab.engine.list()}
        names |= {each: " ".join(lab.engine.catalog.labels_of(each)) for each in self._trees}
        return Moment(step, operations, live, self._trees, names, durable)


class History:
    """The moments of a run in their order."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.moments = moments
        self._operations = [moment.operations for moment in moments]
        self._since: list[dict[str, int]] = []
        known: dict[str, int] = {}
        for number, moment in enumerate(moments):
            known = {ws: number if ws in moment.durable else known.get(ws, number) for ws in moment.live}
            self._since.append(known)

    def answered(self, operations: int) -> int:
        """Number of the last moment that had come after so many operations; -1 before the first."""
        return bisect.bisect_right(self._operations, operations) - 1

    def refuse(self, seen: Seen, done: int) -> list[str]:
        """What is wrong with what a store shows when moment ``done`` was the last that had come."""
        if seen.problems:
            return list(seen.problems)
        now, later = self.moments[done], self.moments[min(done + 1, len(self.moments) - 1)]
        wrong = []
        if seen.live.keys() not in (now.live.keys(), later.live.keys()):
            wrong.append(f"workspaces are {sorted(seen.live)}, not {sorted(now.live)} or {sorted(later.live)}")
        for workspace, found in seen.live.items():
            since = self._since[done].get(workspace, done)
            allowed = [each.live.get(workspace) for each in (*self.moments[since : done + 1], later)]
            if found not in allowed:
                where = [at for at, each in enumerate(self.moments) if each.live.get(workspace) == found]
                wrong.append(f"{workspace} is in no state of {since} to {done + 1}, but in that of {where or 'none'}")
        for each, name in seen.names.items():
            if name not in (now.names.get(each), later.names.get(each)):
                wrong.append(f"{each} is called {name!r}, not {now.names.get(each)!r} or {later.names.get(each)!r}")
        known = {**now.snapshots, **later.snapshots}
        for snapshot, found in seen.snapshots.items():
            if known.get(snapshot) != found:
                wrong.append(f"{snapshot} is unknown, or shows something else")
        if lost := (now.snapshots.keys() & later.snapshots.keys()) - seen.snapshots.keys():
            wrong.append(f"snapshots are gone: {sorted(lost)}")
        return wrong


Look = Callable[[Lab], Moment]
"""What a store shows, whatever trees are compared by."""


def look(lab: Lab) -> Moment:
    """By hashes of whole trees, workspaces by their ids."""
    return Observer().look(lab, 0, "")


def observe(image: Image, folder: Path, *, usable: bool, look: Look = look) -> Seen:
    """Open what a disk holds, in ``folder``, and look at it; with ``usable``, work with it too."""
    write_image(image, folder)
    try:
        return _open(folder / STORE, usable, look)
    finally:
        shutil.rmtree(folder)


def _open(store: Path, usable: bool, look: Look) -> Seen:
    try:
        lab = Lab.existing(store)
    except Exception as error:
        return Seen({}, {}, {}, (f"does not open: {type(error).__name__}: {error}",))
    try:
        moment = look(lab)
        problems = [f"fsck: {each}" for each in lab.engine.fsck(deep=True)]
        if lab.engine.reindexed is not None:  # it mends itself, but no power loss may make that necessary
            problems.append(f"index: {lab.engine.reindexed}")
        if usable and not problems:
            prove_usable(lab)
        return Seen(moment.live, moment.snapshots, moment.names, tuple(problems))
    except Exception as error:
        return Seen({}, {}, {}, (f"opened, then {type(error).__name__}: {error}",))
    finally:
        lab.engine.close()


@dataclass
class Verdict:
    """``states``: judged, of which ``different`` ones were opened; ``findings``: what is wrong, and where."""

    states: int = 0
    different: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Both together."""
        self.states += other.states
        self.different += other.different
        self.kinds += other.kinds
        self.findings += other.findings


class Judge:
    """Goes through a recording and judges what may be left at every point of it.

    ``randoms``: random states after each operation, besides the corners; ``usable_every``: so manieth store that was
    opened is worked with. What is wrong is kept in ``keep``, if given.
    """

    def __init__(
        self, log: Path, history: History, scratch: Path, *, seed: int, randoms: float, usable_every: int,
        keep: Path | None = None, look: Look = look, corners: Sequence[str] = CORNERS,
    ) -> None:  # fmt: skip
        self._log = log
        self._history = history
        self._scratch = scratch
        self._seed = seed
        self._randoms = randoms
        self._usable_every = usable_every
        self._keep = keep
        self._look = look
        self._corners = corners
        self._seen: dict[bytes, Seen] = {}

    def run(self, processes: int, first: int = 0) -> Verdict:
        """Judge all from operation ``first`` on, shared among processes: a damaged index can kill one."""
        last = sum(1 for _ in read_log(self._log))
        first = max(first, self._history.moments[0].operations)
        size = -(-(last - first + 1) // processes)
        parts = [(at, min(at + size, last + 1)) for at in range(first, last + 1, size)]
        verdict = Verdict()
        context = multiprocessing.get_context("fork")
        running = []
        for number, (start, end) in enumerate(parts):
            place = self._scratch / f"judge-{number}"
            child = context.Process(target=self._part, args=(start, end, place))
            child.start()
            running.append((child, place))
        for child, place in running:
            child.join()
            result = place.with_suffix(".result")
            if child.exitcode == 0 and result.exists():
                verdict.add(pickle.loads(result.read_bytes()))
            else:
                at = place.with_suffix(".at").read_text()
                verdict.findings.append(f"{at}: the process that looked at it ended with {child.exitcode}")
            shutil.rmtree(place, ignore_errors=True)
        return verdict

    def _part(self, start: int, end: int, place: Path) -> None:
        verdict = Verdict()
        disk = Disk()
        progress = os.open(place.with_suffix(".at"), os.O_RDWR | os.O_CREAT, 0o600)
        entries = read_log(self._log)
        for count in range(end):
            if count:
                disk.apply(next(entries))
            if count < start:
                continue
            for kind, image in self._images(disk, count):
                where = f"after operation {count}, {kind}"
                os.pwrite(progress, f"{where:<80}".encode(), 0)
                self._judge(image, count, where, place, verdict)
                verdict.kinds[kind.split()[0]] += 1
            if len(verdict.findings) > 20:
                break
        place.with_suffix(".result").write_bytes(pickle.dumps(verdict))

    def _images(self, disk: Disk, count: int) -> Iterator[tuple[str, Image]]:
        for corner in self._corners:
            yield corner, disk.corner(corner)
        random = Random(f"{self._seed} {count}")
        for number in range(int(self._randoms) + (random.random() < self._randoms % 1)):
            yield f"random {number}", disk.random(Random(f"{self._seed} {count} {number}"))

    def _judge(self, image: Image, count: int, where: str, place: Path, verdict: Verdict) -> None:
        verdict.states += 1
        name = digest(image)
        seen = self._seen.get(name)
        if seen is None:
            verdict.different += 1
            usable = struct.unpack_from("<I", name)[0] % self._usable_every == 0
            seen = self._seen[name] = observe(image, place, usable=usable, look=self._look)
        done = self._history.answered(count)
        for wrong in self._history.refuse(seen, done):
            verdict.findings.append(f"{where} (answered: {self._history.moments[done].step}): {wrong}")
            if self._keep is not None:
                kept = self._keep / name.hex()[:12]
                if not kept.exists():
                    self._keep.mkdir(parents=True, exist_ok=True)
                    write_image(image, kept)
