"""A script of operations and verbs, and a way to interfere with every system call that changes the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowfs.layers.journal import Limits
from cowfs.view.reading import ReadView
from cowfs.view.room import Room
from tests.support.lab import ME, Lab
from tests.support.roomy import TestDisk
from tests.support.treehash import hash_view

CALLS = (
    "open", "write", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir", "rmdir",
)  # fmt: skip
"""What is counted; ``open`` only where it may create a file."""

WRITES = ("write", "pwrite", "pwritev")

Call = Callable[..., Any]
Action = Callable[[int, str, Call, tuple[Any, ...], dict[str, Any]], Any]
"""(number of the call from 1 on, its name, the real function, arguments) -> what the call returns."""


@contextmanager
def intercepted(action: Action) -> Iterator[list[str]]:
    """Every counted call goes through ``action``, whose own calls do not; gives the list of names so far."""
    names: list[str] = []
    busy = threading.local()

    def through(name: str, real: Call) -> Call:
        def call(*args: Any, **named: Any) -> Any:
            read_only = name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT)
            if read_only or getattr(busy, "inside", False):
                return real(*args, **named)
            names.append(name)
            busy.inside = True
            try:
                return action(len(names), name, real, args, named)
            finally:
                busy.inside = False

        return call

    originals = {name: getattr(os, name) for name in CALLS}
    try:
        for name, real in originals.items():
            setattr(os, name, through(name, real))
        yield names
    finally:
        for name, real in originals.items():
            setattr(os, name, real)


def tree(view: ReadView) -> str:
    """Everything that a view shows, as one string."""
    return hash_view(view, identity=True, holes=True).total


def trees(lab: Lab) -> dict[str, str]:
    """Workspace name -> its live tree."""
    return {each.name: tree(lab.workspace(each.name).view) for each in lab.engine.list()}


def snapshot_tree(lab: Lab, snapshot: str) -> str:
    """The tree of a snapshot, read from its layers."""
    engine = lab.engine
    entry = engine.catalog.snapshot(snapshot)
    lab.workspace(engine.catalog.workspace(entry.workspace).name)
    chain = engine._chain(entry.layer)
    return tree(ReadView(engine.host.state(chain), Room(TestDisk())))


@dataclass(frozen=True)
class Step:
    """One operation or verb. ``kind``: op, sync, verb, settle. A verb's result may be a snapshot id."""

    name: str
    kind: str
    run: Callable[[Lab], str | None]


def new_lab(path: Path) -> Lab:
    """A store whose journals rotate often."""
    return Lab(path, limits=Limits(file_records=5))


def script() -> list[Step]:
    """The steps, in order."""
    steps: list[Step] = []

    def op(name: str, run: Callable[[Lab], object]) -> None:
        steps.append(Step(name, "op", lambda lab: (run(lab), None)[1]))

    def new(ws: str, path: str, data: bytes) -> None:
        op(f"create {path} in {ws}", lambda lab: lab.files(ws).create(path))
        op(f"write {path} in {ws}", lambda lab: lab.files(ws).write(path, data))

    def verb(name: str, run: Callable[[Lab], str | None]) -> None:
        steps.append(Step(name, "verb", run))

    def settle() -> None:
        steps.append(Step("settle", "settle", lambda lab: lab.engine.settle()))

    def checkpoint(ws: str, label: str | None = None) -> None:
        verb(f"checkpoint {ws}", lambda lab: lab.engine.checkpoint(ws, "m", label=label).snapshot.id)

    verb("create a", lambda lab: (lab.engine.create("a"), None)[1])
    op("mkdir", lambda lab: lab.files("a").mkdir("d"))
    op("create", lambda lab: lab.files("a").create("d/f"))
    op("write", lambda lab: lab.files("a").write("d/f", b"first" * 1000, 10))
    op("symlink", lambda lab: lab.files("a").symlink("s", b"d/f"))
    steps.append(Step("sync", "sync", lambda lab: lab.workspace("a").sync()))
    op("link", lambda lab: lab.files("a").link("d/f", "hard"))
    checkpoint("a", "one")
    op("overwrite", lambda lab: lab.files("a").write("hard", b"SECOND", 4000))
    op("truncate", lambda lab: lab.files("a").set("d/f", size=4500))
    op("rename", lambda lab: lab.files("a").rename("hard", "d/moved"))
    verb("fork a b", lambda lab: (lab.engine.fork("a", "b"), None)[1])
    new("b", "only-b", b"b" * 20_000)
    op("unlink in b", lambda lab: lab.files("b").unlink("s"))
    new("a", "only-a", b"a")
    checkpoint("b")
    op("xattr", lambda lab: lab.files("b").view.setxattr(1, b"user.x", b"v", 0, ME))
    settle()
    verb("restore a", lambda lab: _undo(lab.engine.restore("a", "@one").undo))
    new("a", "later", b"l" * 5000)
    steps.append(Step("freeze", "settle", lambda lab: lab.freeze()))
    op("unlink", lambda lab: lab.files("a").unlink("s"))
    verb("undo a", lambda lab: _undo(lab.engine.undo("a").undo))
    checkpoint("b", "two")
    verb("fork a@one c", lambda lab: (lab.engine.fork("a@one", "c", count=2), None)[1])
    op("in c-1", lambda lab: lab.files("c-1").unlink("d/f"))
    verb("remove b", lambda lab: lab.engine.remove("b"))
    op("in a again", lambda lab: lab.files("a").write("d/f", b"again", 100))
    verb("rename a e", lambda lab: (lab.engine.rename("a", "e"), None)[1])
    verb("label", lambda lab: (lab.engine.label("e@one", "best"), None)[1])
    settle()
    verb("remove snapshot", lambda lab: lab.engine.remove("e@-1"))
    checkpoint("e", "end")
    op("at the end", lambda lab: lab.files("e").mkdir("end"))
    return steps


def _undo(snapshot: Any) -> str | None:
    return None if snapshot is None else str(snapshot.id)


def prove_usable(lab: Lab) -> None:
    """The store is clean and goes on: write, checkpoint, fork, settle, restore, reopen."""
    lab.check()
    engine = lab.engine
    if not engine.list():
        engine.create("fresh")
    for each in engine.list():
        before = engine.checkpoint(each.name, "before").snapshot
        was = tree(lab.workspace(each.name).view)
        lab.files(each.name).write("proof", b"p" * 3000)
        engine.checkpoint(each.name, "proof")
        engine.fork(each.name, each.name + "-proof")
        engine.restore(each.name, before.id)
        assert tree(lab.workspace(each.name).view) == was
    engine.settle()
    last = trees(lab)
    lab.reopen()
    assert trees(lab) == last
    lab.check()


@dataclass(frozen=True)
class Moment:
    """What the store shows after a step: live trees by workspace name, snapshot trees by id."""

    live: dict[str, str]
    snapshots: dict[str, str]

    @classmethod
    def of(cls, lab: Lab) -> Moment:
        """The store as it is now."""
        return cls(trees(lab), {each: snapshot_tree(lab, each) for each in sorted(lab.engine.catalog.snapshots)})


def moments(path: Path) -> list[Moment]:
    """The store after 0, 1, 2 … steps of the script, when nothing goes wrong. Ids and times are the same each time."""
    lab = new_lab(path)
    found = [Moment.of(lab)]
    for step in script():
        step.run(lab)
        found.append(Moment.of(lab))
    lab.close()
    return found


def refuse_other(now: Moment, before: Moment, after: Moment) -> None:
    """``now`` must be ``before`` or ``after``, or lie between them in its snapshots."""
    assert now.live in (before.live, after.live), "the live state is neither that before nor that after"
    known = {**before.snapshots, **after.snapshots}
    for snapshot, seen in now.snapshots.items():
        assert known.get(snapshot) == seen, f"{snapshot} is unknown, or shows something else"
    lost = (before.snapshots.keys() & after.snapshots.keys()) - now.snapshots.keys()
    assert not lost, f"acknowledged snapshots are gone: {lost}"
