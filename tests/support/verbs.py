"""Every verb as a case: a store made ready for it, the verb under an idempotency key, and what the store shows."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cowfs.blocks.segments import SegmentWriter, read_segment, segment_ids, segment_path
from cowfs.engine import Engine
from cowfs.formats.segment import HEADER_BYTES
from cowfs.remembered import Request
from cowfs.view.reading import ReadView
from cowfs.view.room import Room
from cowfs.workspace import CheckpointOrder
from tests.support.faults import new_lab, tree
from tests.support.interpose import share
from tests.support.lab import Lab
from tests.support.roomy import TestDisk

REQUEST = Request("the-key-of-the-verb", bytes(range(32)))


class Still:
    """A clock that stands, so that a verb done again makes equal trees."""

    now = 1_800_000_000_000_000_000

    def __call__(self) -> int:
        return self.now


class VerbLab(Lab):
    """An existing store whose settlers are threads of this process."""

    @classmethod
    def at(cls, path: Path, first_id: int) -> VerbLab:
        """Open it; new ids begin with that number."""
        lab = cls.__new__(cls)
        lab._set(path, None, False, first_id)
        lab.clock = Still()  # type: ignore[assignment]
        lab.engine = lab.open()
        return lab

    def open(self) -> Engine:
        """Open the store at ``path``."""
        engine = super().open()
        share(engine.index)
        return engine


def make_base(path: Path) -> None:
    """A store with a bit of everything: settled, frozen and live layers, forks, labels, garbage, a sealed segment."""
    lab = new_lab(path)
    engine = lab.engine
    engine.create("gone")
    for number in range(6):
        lab.files("gone").write(f"g{number}", os.urandom(40_000))
    engine.checkpoint("gone", "to be garbage")
    engine.create("a")
    lab.files("a").mkdir("d")
    lab.files("a").write("d/f", b"first" * 1000)
    engine.checkpoint("a", "one", label="one")
    engine.settle()
    engine.fork("a", "c")
    engine.remove("gone")
    _seal(engine)
    lab.files("a").write("d/f", b"SECOND", 4000)
    engine.checkpoint("a", "two", label="best")
    engine.restore("a", "@one")
    lab.files("a").write("d/g", b"third" * 3000)
    engine.checkpoint("a", "three")
    engine.fork("a", "b")
    lab.files("b").write("only-b", b"b" * 20_000)
    engine.checkpoint("b", "in b")
    engine.fork("b@-1", "d")
    lab.files("b").unlink("d/g")
    lab.files("a").write("live", b"live" * 500)
    lab.files("a").symlink("s", b"live")
    lab.engine.close()


def _seal(engine: Engine) -> None:
    """No writer goes on with what is there: half of it is garbage, and is to be compacted."""
    for segment in segment_ids(engine.store.segments):
        number, path = engine.jobs.segments.take()
        assert number == segment
        writer = SegmentWriter(path, number)
        writer.seal()
        writer.close()
        engine.jobs.segments.release(number)


@dataclass(frozen=True)
class World:
    """What a store shows: workspaces by name, snapshots by id."""

    workspaces: dict[str, tuple[str, str, str | None, tuple[tuple[str, str], ...], tuple[tuple[str, bytes], ...]]]
    snapshots: dict[str, tuple[str, str | None, str, tuple[str, ...], bool, str]]

    @classmethod
    def of(cls, lab: Lab) -> World:
        """The store as it is now."""
        catalog = lab.engine.catalog
        workspaces = {}
        for each in lab.engine.list():
            live = tree(lab.workspace(each.name).view)
            entry = catalog.workspace(each.id)
            labels, settings = tuple(sorted(catalog.labels(each.id).items())), catalog.settings(each.id)
            workspaces[each.name] = (each.id, live, entry.head, labels, tuple(sorted(settings.items())))
        snapshots = {}
        for snapshot in catalog.snapshots.values():
            state = lab.engine.host.state(lab.engine._chain(snapshot.layer))
            seen = tree(ReadView(state, Room(TestDisk())))
            owner = catalog.workspace(snapshot.workspace).name
            names = catalog.labels_of(snapshot.id)
            snapshots[snapshot.id] = (owner, snapshot.parent, snapshot.message, names, snapshot.automatic, seen)
        return cls(workspaces, snapshots)

    def parts(self) -> tuple[dict[str, str], object]:
        """(live trees, everything that the catalog says)"""
        rest = {name: (row[0], *row[2:]) for name, row in self.workspaces.items()}
        return {name: row[1] for name, row in self.workspaces.items()}, (rest, self.snapshots)

    def without_ids(self) -> object:
        """The same, whatever ids were given."""
        known = {each: (row[0], *row[2:]) for each, row in self.snapshots.items()}
        spaces = {
            name: (live, known.get(head or ""), tuple((label, known[at]) for label, at in labels))
            for name, (_, live, head, labels, _) in self.workspaces.items()
        }
        return spaces, sorted(map(repr, known.values()))


@dataclass(frozen=True)
class Case:
    """``run(lab, source)`` is the verb, under REQUEST where it takes one. ``keyed``: whether it does.

    ``halfway``: a state between before and after that a death may leave, made of both.
    """

    run: Callable[[Lab, Path], Any]
    keyed: bool = True
    halfway: Callable[[World, World], World] | None = None


def _frozen(before: World, after: World) -> World:
    """The automatic snapshot that a fork of a changed workspace begins with is there, the fork is not."""
    return replace(after, workspaces={name: after.workspaces[name] for name in before.workspaces})


def _freeze(lab: Lab, _: Path) -> None:
    lab.freeze()


def _quiet(_: object) -> None:
    """Progress that nobody looks at."""


CASES: dict[str, Case] = {
    "create": Case(lambda lab, _: lab.engine.create("new", REQUEST)),
    "import": Case(lambda lab, source: lab.engine.import_tree(os.fsencode(source), "new", (), _quiet, REQUEST)),
    "checkpoint": Case(lambda lab, _: lab.engine.checkpoint("a", "cp", label="best", move=True, request=REQUEST)),
    "checkpoint of nothing": Case(lambda lab, _: lab.engine.checkpoint("d", "cp", label="new", request=REQUEST)),
    "restore": Case(lambda lab, _: lab.engine.restore("a", "@one", request=REQUEST)),
    "restore --discard": Case(lambda lab, _: lab.engine.restore("a", "@best", discard=True, request=REQUEST)),
    "restore into an ancestor": Case(lambda lab, _: lab.engine.restore("b", "a@one", request=REQUEST)),
    "undo": Case(lambda lab, _: lab.engine.undo("a", REQUEST)),
    "fork": Case(lambda lab, _: lab.engine.fork("a", "new", 3, REQUEST), halfway=_frozen),
    "fork of a snapshot": Case(lambda lab, _: lab.engine.fork("a@one", "new", request=REQUEST)),
    "remove workspace": Case(lambda lab, _: lab.engine.remove("b", request=REQUEST)),
    "remove snapshot": Case(lambda lab, _: lab.engine.remove("a@best", request=REQUEST)),
    "rename": Case(lambda lab, _: lab.engine.rename("a", "renamed", REQUEST)),
    "label": Case(lambda lab, _: lab.engine.label("a@-1", "best", True, REQUEST)),
    "freeze": Case(_freeze, keyed=False),
    "settle": Case(lambda lab, _: lab.engine.settle(), keyed=False),
    "collect": Case(lambda lab, _: lab.engine.collect(False, _quiet), keyed=False),
    "compact the control log": Case(lambda lab, _: lab.engine.catalog.compact(lab.clock()), keyed=False),
}


def leftovers(lab: Lab) -> list[str]:
    """What lies in the store and belongs to nothing."""
    store, catalog = lab.engine.store, lab.engine.catalog
    found = [f"tmp/{path.name}" for path in store.tmp.iterdir()]
    found += [f"control/{path.name}" for path in store.control.iterdir() if path.name != "log"]
    found += [f"layer {layer.id}" for layer in catalog.unreachable()]
    needed = catalog.journal_files()
    for folder in store.journals.iterdir():
        entry = catalog.workspaces.get(folder.name)
        for path in folder.iterdir():
            number = int(path.stem)
            live = entry is not None and number >= (entry.position[0] if entry.position else 0)
            if not live and number < min((at for ws, at in needed if ws == folder.name), default=1 << 62):
                found.append(f"journals/{folder.name}/{path.name}")
        if entry is None and not any(ws == folder.name for ws, _ in needed):
            found.append(f"journals/{folder.name}")
    for segment in segment_ids(store.segments):
        path = segment_path(store.segments, segment)
        if path.stat().st_size < HEADER_BYTES and segment in lab.engine.jobs.segments.in_use():
            continue  # the next writer begins it
        contents = read_segment(path, deep=True)
        if contents.damage:
            found.append(f"segment {segment}: {contents.damage}")
    return found


def make_unclean(path: Path) -> None:
    """Have a store killed whose journals say more than its control log, with whatever a death can leave."""
    pid = os.fork()
    if pid == 0:
        try:
            lab = VerbLab.at(path, 400_000)
            engine, store = lab.engine, lab.engine.store
            for name, labels in (("a", ("best",)), ("b", ())):
                order = CheckpointOrder(f"snap-late-{name}", f"lay-late-{name}", "late", labels, allow_empty=True)
                engine.host.checkpoint(engine.open_workspace(name), order)
            undo = CheckpointOrder("snap-undo", "lay-undo", "undo", automatic=True, allow_empty=True)
            target = engine.snapshot("a@one").id
            layers = engine._chain(engine.catalog.snapshot(target).layer)
            engine.host.restore(engine.open_workspace("a"), target, layers, "lay-back", undo, False, REQUEST)
            lab.files("a").write("later", b"later")
            for folder in ("a", "b"):
                journal = max((store.journals / engine.workspace(folder).id).iterdir())
                with journal.open("ab") as file:
                    file.write(b"torn" * 20)
            with (store.control / "log").open("ab") as file:
                file.write(b"torn")
            (store.control / "log.new").write_bytes(b"x" * 100)
            (store.tmp / "job-1-1").write_bytes(b"x")
            (store.tmp / "gc-marks").mkdir()
            (store.tmp / "gc-marks" / "data.mdb").write_bytes(b"x")
            (store.journals / "wsp-nobody").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def copy_store(base: Path, to: Path) -> Path:
    """The store at ``base``, again."""
    shutil.copytree(base, to)
    return to
