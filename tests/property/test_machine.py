"""The engine against the model: any operation and any verb, in any order, on several workspaces of one store.

After every operation its result, or its errno, and the inodes that it may have touched are compared; after every verb,
everything: attributes, entries, bytes, holes and extended attributes of all inodes, those without a name included.
"""

from __future__ import annotations

import errno
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from cowfs.errors import Conflict
from cowfs.geometry import Geometry
from cowfs.view.inode import NOW, Caller
from tests.property.operations import Clock, FilesystemMachine, World, modes, pattern, ranks, sizes, times
from tests.support.compare import Changes, Who, outcome
from tests.support.counted import check_counters
from tests.support.model import Model
from tests.support.node import Node
from tests.support.store import TestStore
from tests.support.treehash import hash_view

GEOMETRIES = [
    Geometry(),
    Geometry(inline_limit=0, leaf_limit=256, key_bits=2, block_log2=12),
    Geometry(inline_limit=4096, leaf_limit=300, key_bits=5, block_log2=13),
]
"""The default, and two that make trees deep, names collide and files span many blocks."""

WORKSPACES_MAX = 4


class EngineWorld(World):
    """One workspace. ``line`` are the snapshots it may be restored to: its own, and its ancestors' up to the fork."""

    def __init__(self, clock: Clock, store: TestStore, name: str, model: Model) -> None:
        super().__init__(clock, model)
        self.store = store
        self.name = name
        self.line: list[str] = []
        self.made: set[str] = set()
        self.touched: set[int] = set()

    @property
    def subject(self) -> Any:
        return self.store.workspace(self.name).view

    def compare(self, *inodes: int) -> None:
        super().compare(*inodes)
        if not inodes:
            check_counters(self.subject)

    def align(self) -> None:
        expected = self.subject.statistics().next_ino
        assert expected >= self.model.next_ino, "an inode number is given out twice"
        self.model.next_ino = expected

    def run(self, operation: str, *args: Any, **options: Any) -> Any:
        inodes = {arg for arg in args if type(arg) is int and arg in self.model.nodes}
        self.touched = inodes | {child for ino in inodes for child in self.model.nodes[ino].entries.values()}
        return super().run(operation, *args, **options)

    def settled(self, gone: set[int]) -> None:
        for ino in gone:
            assert outcome(self.subject, "inode", ino) == ("errno", "ESTALE")
        fresh = {max(self.model.nodes)}
        self.compare(*(self.touched | fresh) & self.model.nodes.keys())


class EngineMachine(FilesystemMachine):
    """Operations on several workspaces, and the verbs."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="cowfs-machine-"))
        self.store: TestStore
        self.snapshots: dict[str, dict[int, Node]] = {}
        self.names = 0

    @initialize(geometry=st.sampled_from(GEOMETRIES))
    def make_store(self, geometry: Geometry) -> None:
        self.store = TestStore(self.path / "store", self.clock, geometry)
        self.new_workspace(Model(self.clock))
        self.store.engine.create("ws-1")
        self.worlds[0].compare()

    def new_workspace(self, model: Model) -> EngineWorld:
        """Track one more workspace; the caller has the engine make it."""
        self.names += 1
        world = EngineWorld(self.clock, self.store, f"ws-{self.names}", model)
        self.worlds.append(world)
        return world

    def engine_world(self, rank: int) -> EngineWorld:
        """One of the workspaces."""
        world = self.world(rank)
        assert isinstance(world, EngineWorld)
        return world

    def compare_all(self) -> None:
        """Every inode of every workspace, and every snapshot by its tree hash."""
        for world in self.worlds:
            world.compare()

    # -- verbs

    @rule(w=ranks, allow_empty=st.booleans())
    def checkpoint(self, w: int, allow_empty: bool) -> None:
        world = self.engine_world(w)
        self.clock.tick()
        taken = self.store.engine.checkpoint(world.name, "message", allow_empty=allow_empty)
        now = world.model.snapshot()
        if taken.changed:
            assert taken.snapshot.id not in self.snapshots
            self.remember(world, taken.snapshot.id, now)
        else:
            assert not allow_empty
            assert same(self.snapshots[taken.snapshot.id], now), "a changed workspace was called unchanged"
        world.compare()
        if len(world.line) > 1:
            old, new = world.line[-2:]
            check_diff(self.store.engine.diff(old, new), self.snapshots[old], self.snapshots[new])

    def remember(self, world: EngineWorld, snapshot: str, state: dict[int, Node]) -> None:
        """A snapshot was made of the workspace's present state."""
        self.snapshots[snapshot] = state
        world.line.append(snapshot)
        world.made.add(snapshot)

    @rule(w=ranks, rank=ranks, discard=st.booleans())
    def restore(self, w: int, rank: int, discard: bool) -> None:
        world = self.engine_world(w)
        if not world.line:
            return
        self.clock.tick()
        target, before = world.line[rank % len(world.line)], world.model.snapshot()
        done = self.store.engine.restore(world.name, target, discard=discard)
        assert done.snapshot.id == target
        if discard:
            assert done.undo is None
        elif done.undo is not None:
            if done.undo.id in self.snapshots:
                assert same(self.snapshots[done.undo.id], before), "undo names a state that was not there before"
            else:
                self.remember(world, done.undo.id, before)
        world.model.restore(self.snapshots[target])
        world.compare()
        for ino in before.keys() - world.model.nodes.keys():
            assert outcome(world.subject, "inode", ino) == ("errno", "ESTALE")

    @rule(w=ranks, rank=ranks)
    def restore_elsewhere(self, w: int, rank: int) -> None:
        world = self.engine_world(w)
        foreign = sorted(self.snapshots.keys() - set(world.line))
        if foreign:
            try:
                self.store.engine.restore(world.name, foreign[rank % len(foreign)])
            except Conflict:
                return
            raise AssertionError("restored to a snapshot of another line")

    @rule(w=ranks, rank=ranks, live=st.booleans(), count=st.sampled_from([None, 1, 2]))
    def fork(self, w: int, rank: int, live: bool, count: int | None) -> None:
        world = self.engine_world(w)
        if len(self.worlds) + (count or 1) > WORKSPACES_MAX or not (live or world.line):
            return
        self.clock.tick()
        name = f"fork{self.names}"
        if live:
            made = self.store.engine.fork(world.name, name, count)
            head = made[0].head
            assert head is not None
            if head not in self.snapshots:
                self.remember(world, head, world.model.snapshot())
            assert same(self.snapshots[head], world.model.snapshot()), "the fork is not what the workspace was"
        else:
            head = world.line[rank % len(world.line)]
            made = self.store.engine.fork(head, name, count)
        assert [each.name for each in made] == ([name] if count is None else [f"{name}-{i + 1}" for i in range(count)])
        for each in made:
            self.names += 1
            other = EngineWorld(self.clock, self.store, each.name, world.model.forked(self.snapshots[head]))
            other.model.next_ino = 2
            other.line = world.line[: world.line.index(head) + 1]
            self.worlds.append(other)
            other.compare()

    @rule()
    def settle(self) -> None:
        self.store.engine.settle()
        assert self.store.engine.unsettled() == []
        self.compare_all()

    @rule()
    def settle_one(self) -> None:
        self.store.engine.settle_next()
        self.compare_all()

    @rule(w=ranks)
    def freeze(self, w: int) -> None:
        world = self.engine_world(w)
        workspace = self.store.workspace(world.name)
        engine = self.store.engine
        engine._branches.commit(*engine.host.freeze(workspace.id, self.store.ids("lay")).operations)
        world.compare()

    @rule(killed=st.booleans())
    def reopen(self, killed: bool) -> None:
        """Stop and start. Descriptors end with the process, and with them what had no name."""
        if killed:
            self.store.kill()
        else:
            self.store.reopen()
        for world in self.worlds:
            world.model.nodes = world.model.snapshot()
            world.model.opens.clear()
        self.compare_all()

    @rule(w=ranks)
    def remove_fork(self, w: int) -> None:
        world = self.engine_world(w)
        if len(self.worlds) < 2:
            return
        self.store.engine.remove(world.name, force=True)
        self.worlds.remove(world)
        self.forget_snapshots(world.made)
        self.compare_all()

    def forget_snapshots(self, gone: set[str]) -> None:
        """These snapshots were removed; what forks need of them stays, unnamed."""
        for world in self.worlds:
            assert isinstance(world, EngineWorld)
            world.line = [snapshot for snapshot in world.line if snapshot not in gone]
            world.made -= gone
        for snapshot in gone:
            del self.snapshots[snapshot]

    @rule(w=ranks, rank=ranks)
    def remove_snapshot(self, w: int, rank: int) -> None:
        world = self.engine_world(w)
        if world.line:
            snapshot = world.line[rank % len(world.line)]
            self.store.engine.remove(snapshot)
            self.forget_snapshots({snapshot})
            self.compare_all()

    @rule(w=ranks, a=ranks, b=ranks, live=st.booleans())
    def diff(self, w: int, a: int, b: int, live: bool) -> None:
        world = self.engine_world(w)
        if not world.line:
            return
        old = world.line[a % len(world.line)]
        new = world.name if live else world.line[b % len(world.line)]
        changes = self.store.engine.diff(old, new)
        before = self.snapshots[old]
        after = world.model.snapshot() if live else self.snapshots[new]
        check_diff(changes, before, after)

    # -- operations that a native directory cannot be asked

    @rule(w=ranks, ino=ranks, mode=st.none() | modes, uid=st.sampled_from([None, 5]), size=st.none() | sizes,
          atime=st.none() | times, now=st.booleans(), kill=st.booleans())  # fmt: skip
    def setattr(self, w: int, ino: int, mode: Any, uid: Any, size: Any, atime: Any, now: bool, kill: bool) -> None:
        world = self.engine_world(w)
        node = world.model.nodes[world.file(ino)]
        changes = Changes(mode=mode, uid=uid, size=size, atime=atime, mtime=NOW if now else None, kill_priv=kill)
        if stat.S_ISREG(node.mode) and changes != Changes():
            world.run("setattr", node.ino, changes, Who())

    @rule(w=ranks, ino=ranks, length=st.sampled_from([2000, 2049, 65_536, 65_537]), seed=st.integers(0, 9))
    def set_large_xattr(self, w: int, ino: int, length: int, seed: int) -> None:
        world = self.engine_world(w)
        node = world.model.nodes[world.pick(ino) or 1]
        if not node.xattrs.get(b"user.large"):
            world.run("setxattr", node.ino, b"user.large", pattern(seed, length), 0, Who())

    @rule(w=ranks, ino=ranks, offset=sizes, seed=st.integers(0, 250))
    def write_unprivileged(self, w: int, ino: int, offset: int, seed: int) -> None:
        world = self.engine_world(w)
        world.run("write", world.file(ino), offset, pattern(seed, 10), Who(uid=1000), kill_priv=True)

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self._judge()
        finally:
            shutil.rmtree(self.path)

    def _judge(self) -> None:
        try:
            self.compare_all()
            self.check_snapshots()
            assert not self.store.engine.fsck(deep=True)
        finally:
            self.store.close()

    def check_snapshots(self) -> None:
        """Every workspace's snapshots still are what they were, seen through a fork of each."""
        for world in self.worlds:
            assert isinstance(world, EngineWorld)
            if world.line:
                oldest = world.line[0]
                self.store.engine.fork(oldest, "check-" + world.name)
                view = self.store.workspace("check-" + world.name).view
                model = world.model.forked(self.snapshots[oldest])
                assert hash_view(view, identity=True).total == hash_view(model, identity=True).total
                check_counters(view)


def same(a: dict[int, Node], b: dict[int, Node]) -> bool:
    """Whether two snapshots of the model are equal."""
    return a.keys() == b.keys() and all(vars(a[ino]) == vars(b[ino]) for ino in a)


def paths(nodes: dict[int, Node]) -> dict[bytes, Node]:
    """Every path of a snapshot, without the root."""

    def below(ino: int, prefix: bytes) -> Iterator[tuple[bytes, Node]]:
        for name, child in nodes[ino].entries.items():
            yield prefix + name, nodes[child]
            yield from below(child, prefix + name + b"/")

    return dict(below(1, b""))


def check_diff(changes: Any, before: dict[int, Node], after: dict[int, Node]) -> None:
    """Exactly what differs is listed: each path that is new, gone or elsewhere, and each file that is not the same.

    What lies below a directory that is elsewhere moved with it, unless it is listed itself.
    """
    old, new = {b"": before[1], **paths(before)}, {b"": after[1], **paths(after)}
    listed: dict[bytes, set[str]] = {}
    origin: dict[bytes, bytes | None] = {b"": b""}
    gone: set[bytes] = set()
    for change in changes:
        assert change.change not in listed.setdefault(change.path, set()), f"{change} is listed twice"
        listed[change.path].add(change.change)
        if change.change == "removed":
            gone.add(change.path)
        elif change.change in ("added", "renamed"):
            assert change.path not in origin, f"{change} where something is already"
            origin[change.path] = change.old_path if change.change == "renamed" else None
            assert change.old_path != change.path, change
    came: list[bytes] = []
    for path in sorted(new):
        if path not in origin:
            above, _, name = path.rpartition(b"/")
            from_above = origin[above]
            assert from_above is not None, f"{path!r} is in a directory that is new, and is not listed"
            origin[path] = from_above + b"/" + name if from_above else name
        source = origin[path]
        differs = set() if source is None else kind_of_change(old[source], new[path])
        assert listed.get(path, set()) - {"added", "renamed", "removed"} == differs, (path, source, changes)
        if source is not None:
            came.append(source)
    assert sorted([*came, *gone]) == sorted(old), (changes, sorted(old), sorted(new))


def kind_of_change(a: Node, b: Node) -> set[str]:
    """How a path that is in both states is to be listed. Of a directory, times are not; of none, ctime, link count and
    blocks are: a page of zeros is what a hole is to everybody who reads it."""
    if stat.S_IFMT(a.mode) != stat.S_IFMT(b.mode) or content(a) != content(b):
        return {"modified"}
    attributes = [(node.mode, node.uid, node.gid, node.rdev, node.xattrs) for node in (a, b)]
    times = [(node.atime, node.mtime, node.btime) for node in (a, b)]
    return {"metadata"} if attributes[0] != attributes[1] or (times[0] != times[1] and not a.is_dir) else set()


def content(node: Node) -> tuple[int, dict[int, bytearray], bytes]:
    """The bytes of a file or link: a page of zeros is as good as a hole."""
    return node.length, {number: page for number, page in node.pages.items() if any(page)}, node.target


def test_no_number_is_given_twice_after_a_restore(tmp_path: Path) -> None:
    store = TestStore(tmp_path / "store")
    engine, who = store.engine, Caller()
    engine.create("ws")
    base = engine.checkpoint("ws", "empty").snapshot.id
    first = store.workspace("ws").view.mknod(1, b"a", stat.S_IFREG | 0o644, 0, who)
    engine.restore("ws", base)
    assert outcome(store.workspace("ws").view, "inode", first.ino) == ("errno", errno.errorcode[errno.ESTALE])
    assert store.workspace("ws").view.mknod(1, b"a", stat.S_IFREG | 0o644, 0, who).ino > first.ino
    store.close()


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, report_multiple_bugs=False)
