"""The catalog against a plain model: any operations, reopening, compacting, and a log cut at any byte.

The model keeps workspaces and snapshots as lists and answers every question by looking through all of them; it shares
no code with the tables. After a cut the catalog must be what it was after some group, at least the last synced one.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cowfs.catalog import Catalog
from cowfs.catalog.refs import label_operations, line_of, resolve
from cowfs.errors import Conflict, NotFound
from cowfs.formats.control import (
    Froze,
    LayerImported,
    LayersDropped,
    Position,
    Renamed,
    Restored,
    Settled,
    SnapshotMade,
    SnapshotRemoved,
    Span,
    WorkspaceCreated,
    WorkspaceRemoved,
)
from cowfs.fsck import check_catalog

NAMES = st.sampled_from(["a", "b", "c", "d"])
LABELS = st.sampled_from(["good", "bad", "v1"])
INDEX = st.integers(0, 30)


@dataclass
class Snap:
    """A snapshot; ``born`` counts all snapshots ever made."""

    id: str
    workspace: str
    layer: str
    born: int
    automatic: bool


@dataclass
class Space:
    """A workspace; ``bound``: snapshots born up to then are in reach of it through ``origin``."""

    id: str
    name: str
    live: str
    below: str
    head: str | None
    origin: str | None = None
    bound: int = 0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """Everything that should be in the catalog; ``layers``: id -> [parent, settled]."""

    spaces: list[Space] = field(default_factory=list)
    snaps: list[Snap] = field(default_factory=list)
    layers: dict[str, list[object]] = field(default_factory=dict)
    born: int = 0

    def space(self, id_: str) -> Space | None:
        return next((space for space in self.spaces if space.id == id_), None)

    def snap(self, id_: str | None) -> Snap | None:
        return next((snap for snap in self.snaps if snap.id == id_), None)

    def line(self, space: Space) -> list[Snap]:
        """Newest first."""
        found = [snap for snap in self.snaps if snap.workspace == space.id]
        bound, at = space.bound, self.space(space.origin or "")
        while at is not None:
            found += [snap for snap in self.snaps if snap.workspace == at.id and snap.born <= bound]
            bound, at = min(bound, at.bound), self.space(at.origin or "")
        return sorted(found, key=lambda snap: -snap.born)

    def labelled(self, space: Space, label: str) -> str | None:
        if label in space.labels:
            return space.labels[label]
        reach = {snap.id for snap in self.line(space)}
        at = self.space(space.origin or "")
        while at is not None:
            if at.labels.get(label) in reach:
                return at.labels[label]
            at = self.space(at.origin or "")
        return None

    def forget(self, gone: set[str]) -> None:
        self.snaps = [snap for snap in self.snaps if snap.id not in gone]
        for space in self.spaces:
            space.head = None if space.head in gone else space.head
            space.labels = {label: snap for label, snap in space.labels.items() if snap not in gone}

    def needed(self) -> set[str]:
        needed: set[str] = set()
        for layer in [space.below for space in self.spaces] + [snap.layer for snap in self.snaps]:
            while layer not in needed:
                needed.add(layer)
                parent, settled = self.layers[layer]
                if settled:
                    break
                assert isinstance(parent, str)
                layer = parent
        return needed


class CatalogMachine(RuleBasedStateMachine):
    """Each rule commits one group to both, or checks that both refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="cowfs-catalog-"))
        self.model = Model()
        self.catalog = Catalog.open(self.directory, create=True, salt=3)
        self.number = 0
        self.points: list[tuple[int, Model]] = []
        self._synced()

    def teardown(self) -> None:
        self.catalog.close()
        shutil.rmtree(self.directory)

    def id(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.number:020x}"

    def _committed(self) -> None:
        self.points.append((self.catalog.statistics().log_bytes, copy.deepcopy(self.model)))

    def _synced(self) -> None:
        self.points = []
        self._committed()

    def pick(self, index: int) -> Space:
        return self.model.spaces[index % len(self.model.spaces)]

    @initialize()
    def first(self) -> None:
        self.import_("a")

    @rule(name=NAMES)
    def import_(self, name: str) -> None:
        layer, space = self.id("lay"), Space(self.id("wsp"), name, self.id("lay"), "", None)
        space.below = layer
        ops = (
            LayerImported(layer, None, bytes(32), 9),
            WorkspaceCreated(space.id, name, 1, space.live, layer, None, None, None, 9),
        )
        if any(other.name == name for other in self.model.spaces):
            self.refused(Conflict, *ops)
            return
        self.catalog.commit(*ops, sync=False)
        self.model.layers[layer] = [None, True]
        self.model.spaces.append(space)
        self._committed()

    def refused(self, error: type[Exception], *ops: object) -> None:
        before, size = self.catalog.rows(), self.catalog.statistics().log_bytes
        try:
            self.catalog.commit(*ops, sync=False)  # type: ignore[arg-type]
        except error:
            assert self.catalog.rows() == before
            assert self.catalog.statistics().log_bytes == size
            return
        raise AssertionError(f"{ops} should be refused")

    @precondition(lambda self: self.model.spaces)
    @rule(index=INDEX, automatic=st.booleans(), labels=st.sets(LABELS, max_size=2), sync=st.booleans())
    def checkpoint(self, index: int, automatic: bool, labels: set[str], sync: bool) -> None:
        space = self.pick(index)
        snap, live = self.id("snap"), self.id("lay")
        span = Span(1, self.number, self.number + 1)  # behind those of all layers before
        ops = (
            Froze(space.live, space.id, space.below, (span,), 9, live),
            SnapshotMade(snap, space.id, space.head, space.live, "m", tuple(sorted(labels)), "me", 1, automatic),
            Position(space.id, 1, span[2], self.number),
        )
        self.catalog.commit(*ops, sync=sync)
        self.model.layers[space.live] = [space.below, False]
        self.model.born += 1
        self.model.snaps.append(Snap(snap, space.id, space.live, self.model.born, automatic))
        space.below, space.live, space.head = space.live, live, snap
        space.labels |= dict.fromkeys(labels, snap)
        self._synced() if sync else self._committed()

    @precondition(lambda self: self.model.snaps)
    @rule(index=INDEX, at=INDEX)
    def restore(self, index: int, at: int) -> None:
        space, snap = self.pick(index), self.model.snaps[at % len(self.model.snaps)]
        live = self.id("lay")
        op = Restored(space.id, snap.id, live, snap.layer, 9)
        if snap not in self.model.line(space):
            self.refused(Conflict, op)
            return
        self.catalog.commit(op, sync=False)
        space.live, space.below, space.head = live, snap.layer, snap.id
        self._committed()

    @precondition(lambda self: self.model.snaps)
    @rule(index=INDEX, at=INDEX, name=NAMES, count=st.integers(1, 2))
    def fork(self, index: int, at: int, name: str, count: int) -> None:
        origin = self.pick(index)
        line = self.model.line(origin)
        if not line:
            return
        snap = line[at % len(line)]
        names = [name] if count == 1 else [f"{name}-1", f"{name}-2"]
        made = [Space(self.id("wsp"), n, self.id("lay"), snap.layer, snap.id, origin.id, snap.born) for n in names]
        ops = [
            WorkspaceCreated(s.id, s.name, 1, s.live, s.below, snap.id, origin.id, snap.id, 9) for s in made
        ]  # fmt: skip
        if {space.name for space in self.model.spaces} & set(names):
            self.refused(Conflict, *ops)
            return
        self.catalog.commit(*ops, sync=False)
        self.model.spaces += made
        self._committed()

    @precondition(lambda self: self.model.snaps)
    @rule(index=INDEX, at=INDEX, label=LABELS, move=st.booleans())
    def label(self, index: int, at: int, label: str, move: bool) -> None:
        space = self.pick(index)
        line = self.model.line(space)
        if not line:
            return
        snap = line[at % len(line)].id
        try:
            ops = label_operations(self.catalog, space.id, label, snap, move=move)
        except Conflict:
            assert not move
            assert space.labels.get(label) not in (None, snap)
            return
        assert move or space.labels.get(label) in (None, snap)
        self.catalog.commit(*ops, sync=False)
        space.labels[label] = snap
        self._committed()

    @precondition(lambda self: self.model.spaces)
    @rule(index=INDEX, name=NAMES)
    def rename(self, index: int, name: str) -> None:
        space = self.pick(index)
        if any(other.name == name and other is not space for other in self.model.spaces):
            self.refused(Conflict, Renamed(space.id, name))
            return
        self.catalog.commit(Renamed(space.id, name), sync=False)
        space.name = name
        self._committed()

    @precondition(lambda self: self.model.snaps)
    @rule(at=INDEX)
    def remove_snapshot(self, at: int) -> None:
        snap = self.model.snaps[at % len(self.model.snaps)]
        self.catalog.commit(SnapshotRemoved(snap.id), sync=False)
        self.model.forget({snap.id})
        self.refused(NotFound, SnapshotRemoved(snap.id))
        self._committed()

    @precondition(lambda self: len(self.model.spaces) > 1)
    @rule(index=INDEX)
    def remove_workspace(self, index: int) -> None:
        space = self.pick(index)
        self.catalog.commit(WorkspaceRemoved(space.id), sync=False)
        self.model.forget({snap.id for snap in self.model.snaps if snap.workspace == space.id})
        self.model.spaces.remove(space)
        for fork in self.model.spaces:
            if fork.origin == space.id:
                fork.origin, fork.bound = space.origin, min(fork.bound, space.bound)
        self._committed()

    @rule(at=INDEX)
    def settle(self, at: int) -> None:
        waiting = [
            layer for layer, (parent, settled) in self.model.layers.items()
            if not settled and (parent is None or self.model.layers[str(parent)][1])
        ]  # fmt: skip
        if waiting:
            layer = waiting[at % len(waiting)]
            self.catalog.commit(Settled(layer, bytes(32), 1, 1), sync=False)
            self.model.layers[layer][1] = True
            self._committed()

    @rule()
    def collect(self) -> None:
        gone = set(self.model.layers) - self.model.needed()
        assert {layer.id for layer in self.catalog.unreachable()} == gone
        self.catalog.commit(LayersDropped(tuple(sorted(gone))), sync=False)
        for layer in gone:
            parent = self.model.layers.pop(layer)[0]
            for row in self.model.layers.values():
                row[0] = parent if row[0] == layer else row[0]
        self._committed()

    @rule()
    def sync(self) -> None:
        self.catalog.sync()
        self._synced()

    @rule()
    def reopen(self) -> None:
        self.catalog.close()
        self.catalog = Catalog.open(self.directory)
        self._synced()

    @rule()
    def compact(self) -> None:
        self.catalog.compact()
        self._synced()

    @rule(data=st.data())
    def power_fails(self, data: st.DataObject) -> None:
        first, last = self.points[0][0], self.points[-1][0]
        keep = data.draw(st.integers(first, last), label="bytes kept")
        self.catalog.close()
        whole = (self.directory / "log").read_bytes()
        left = whole[:keep] + (bytes(100) if data.draw(st.booleans(), label="zeros behind") else b"")
        (self.directory / "log").write_bytes(left)
        self.catalog = Catalog.open(self.directory)
        # Zeros behind may be just what was lost of an entry.
        reached = [model for size, model in self.points if left[:size] == whole[:size]]
        self.model = copy.deepcopy(reached[-1])
        self._synced()

    @invariant()
    def agrees(self) -> None:
        catalog, model = self.catalog, self.model
        assert {w.id: (w.name, w.live_layer, w.parent_layer, w.head) for w in catalog.workspaces.values()} == {
            s.id: (s.name, s.live, s.below, s.head) for s in model.spaces
        }
        assert {s.id: (s.workspace, s.layer, s.ordinal, s.automatic) for s in catalog.snapshots.values()} == {
            s.id: (s.workspace, s.layer, s.born, s.automatic) for s in model.snaps
        }
        assert {row.id: [row.parent, row.root is not None] for row in catalog.layers.values()} == model.layers
        assert catalog.needed() == model.needed()
        for space in model.spaces:
            assert catalog.by_name(space.name).id == space.id
            assert dict(catalog.labels(space.id)) == space.labels
            line = model.line(space)
            assert [snap.id for snap in line_of(catalog, space.id)] == [snap.id for snap in line]
            made = [snap.id for snap in line if not snap.automatic]
            for number in (1, 2):
                expected = made[number - 1] if number <= len(made) else None
                assert named(catalog, f"{space.name}@-{number}") == expected
            for label in ("good", "bad", "v1"):
                assert named(catalog, f"{space.name}@{label}") == model.labelled(space, label)
        assert not list(check_catalog(catalog.tables(), lambda _: True))


def named(catalog: Catalog, reference: str) -> str | None:
    try:
        snapshot = resolve(catalog, reference).snapshot
    except NotFound:
        return None
    return snapshot.id if snapshot is not None else None


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
