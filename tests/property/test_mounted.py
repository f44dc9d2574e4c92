"""Workspaces behind a real mount against native directories and the model: system calls on both, verbs in between.

Every operation is done through the kernel on a mounted workspace and on a native directory; results and errno must be
equal, and equal to the model's. After each, every inode is looked at in all three: attributes, entries, bytes, xattrs,
access lists, on the mount also allocated blocks and which pages are holes. Times are compared by which operation set
them; a restore must bring back every time to the nanosecond.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.fuse.agent import Agent
from tests.property.native_world import TIMES
from tests.property.operations import START, Clock, FilesystemMachine, World, pattern, ranks
from tests.support.compare import READ_WHOLE, Seen, Who, look, outcome
from tests.support.live import Live
from tests.support.model import CAPABILITY, FILE_MAX, Model
from tests.support.mounting import needs_mounts, needs_root
from tests.support.node import Node
from tests.support.pair import Held, Pair, build, paths_of
from tests.support.treehash import differences, hash_directory, hash_view

WORKSPACES_MAX = 3

Moment = tuple[dict[int, Node], tuple[dict[Any, Any], ...]]
"""The model's nodes at a snapshot, and what the three stamps then called each time."""


class Stamps:
    """Names each time by the operation that set it last, unless it was given explicitly."""

    def __init__(self) -> None:
        self.last: dict[tuple[int, str], tuple[int, Any]] = {}

    def rename(self, seen: Seen, ino: int, step: int) -> Seen:
        """The same inode with comparable times; blocks are compared apart."""
        attributes: dict[str, Any] = dict(seen.attributes)
        del attributes["blocks"]
        if stat.S_ISLNK(attributes["mode"]):
            del attributes["atime"]  # readlink sets it here, and no option prevents that
        for field in TIMES & attributes.keys():
            value = attributes[field]
            previous, label = self.last.get((ino, field), (None, None))
            if value != previous:
                label = value if value < START else f"operation {step}"
            self.last[ino, field] = (value, label)
            attributes[field] = label
        return seen._replace(attributes=attributes)


class MountedWorld(World):
    """One mounted workspace, its native directory, and the model of both."""

    uids = (0,)
    reserves = True

    def __init__(self, clock: Clock, live: Live, name: str, model: Model, inodes: dict[int, Node]) -> None:
        super().__init__(clock, model)
        self.live, self.name = live, name
        self.native_root = live.directory / "native" / name
        self.line: list[str] = []
        self.step = 0
        self.mounted_stamps, self.native_stamps, self.model_stamps = Stamps(), Stamps(), Stamps()
        self.root = live.mount(name)
        self.mounted = self._hold_mounted(inodes)
        self.native = self._native_anew(inodes)

    # -- both sides, found again by path

    def _hold_mounted(self, nodes: dict[int, Node]) -> Held:
        held = Held(os.fspath(self.root))
        self._adopt(held, nodes, self.root)
        return held

    def _native_anew(self, nodes: dict[int, Node]) -> Held:
        shutil.rmtree(self.native_root, ignore_errors=True)
        self.native_root.mkdir(parents=True)
        build(nodes, self.native_root)
        held = Held(os.fspath(self.native_root))
        self._adopt(held, nodes, self.native_root)
        return held

    @staticmethod
    def _adopt(held: Held, nodes: dict[int, Node], root: Path) -> None:
        for ino, names in paths_of(nodes).items():
            if ino not in held.held():
                held.adopt(ino, os.path.join(os.fsencode(root), names[0]))

    # -- the three, comparable

    @property
    def subject(self) -> Any:
        return Pair(self.mounted, self.native)

    @property
    def view(self) -> Any:
        """The engine's view."""
        return self.live.workspace(self.name).view

    def align(self) -> None:
        self.step += 1
        expected = self.view.statistics().next_ino
        assert expected >= self.model.next_ino, "an inode number is given out twice"
        self.model.next_ino = self.mounted.next_ino = self.native.next_ino = expected

    def run(self, operation: str, *args: Any, **options: Any) -> Any:
        at = {"fallocate": 0, "copy_range": 2, "write": 0, "setattr": 0}.get(operation)
        target = None if at is None else self.model.nodes.get(args[at])
        if target is not None and operation in ("fallocate", "copy_range") and target.mode & 0o6000:
            return None  # The kernel does not tell who asks: a mount clears set-id bits, ext4 does not for root.
        if target is not None and CAPABILITY in target.xattrs and self.is_far(operation, args):
            return None  # The kernel drops the capability first, and asks us whether a file may be so large then.
        return super().run(operation, *args, **options)

    @staticmethod
    def is_far(operation: str, args: tuple[Any, ...]) -> bool:
        """Whether an operation might reach beyond the largest file."""
        if operation == "setattr":
            return (args[1].size or 0) > FILE_MAX
        offset, length = (args[1], len(args[2])) if operation == "write" else args[-3:-1]
        return bool(offset + length > FILE_MAX)

    def settled(self, gone: set[int]) -> None:
        for ino in gone:
            self.mounted.drop(ino)
            self.native.drop(ino)
        self.compare()

    def compare(self, *inodes: int) -> None:
        for ino in inodes or sorted(self.model.nodes):
            assert self.mounted.real(ino) == ino
            mounted, native = look(self.mounted, ino), look(self.native, ino)
            expected = look(self.model, ino)
            seen = [
                stamps.rename(each, ino, self.step)
                for each, stamps in zip((mounted, native, expected), self.stamps, strict=True)
            ]
            blocks = mounted.attributes["blocks"], expected.attributes["blocks"]
            assert blocks[0] == blocks[1], f"inode {ino}: {blocks[0]} blocks, should have {blocks[1]}"
            assert seen[0] == seen[2], f"inode {ino}:\n  mounted {seen[0]}\n  should  {seen[2]}"
            if ino in self.reserved:
                seen = [self._without_reservation(each) for each in seen]
            assert seen[1] == seen[2], f"inode {ino}:\n  native {seen[1]}\n  model  {seen[2]}"

    @property
    def stamps(self) -> tuple[Stamps, Stamps, Stamps]:
        """Those of the mount, the native directory and the model."""
        return self.mounted_stamps, self.native_stamps, self.model_stamps

    @staticmethod
    def _without_reservation(seen: Seen) -> Seen:
        far = seen.attributes["size"] > READ_WHOLE
        return seen._replace(ranges=(), data=b"" if far else seen.data)

    # -- verbs

    def moment(self) -> Moment:
        """What to compare with after a restore of a snapshot made now."""
        return self.model.snapshot(), tuple(dict(stamps.last) for stamps in self.stamps)

    def go_to(self, moment: Moment) -> None:
        """The workspace was restored to a moment: check what is gone, put back the others, compare."""
        nodes, last = moment
        for ino in sorted(self.mounted.held() - nodes.keys()):
            self._check_gone(ino)
            self.mounted.drop(ino)
        self.model.restore(nodes)
        self._adopt(self.mounted, nodes, self.root)
        open_before = {ino: self.native.opens(ino) for ino in nodes}
        self.native.close()
        self.native = self._native_anew(nodes)
        self.relabel(last)
        self.compare()
        for ino, opens in open_before.items():
            for writable in opens:
                self.native.opened(ino, writable, Who())
        for ino in [ino for ino, count in self.model.opens.items() if count and ino not in nodes]:
            del self.model.opens[ino]

    def relabel(self, last: tuple[dict[Any, Any], ...]) -> None:
        """Times have come back, or have, in a directory made anew, the meaning that they had."""
        self.mounted_stamps.last, self.model_stamps.last = dict(last[0]), dict(last[2])
        self.native_stamps.last = {}
        for ino in self.model.nodes:
            for field in ("atime", "mtime", "ctime"):
                if (ino, field) in last[1]:
                    now = getattr(self.native.inode(ino), field)
                    self.native_stamps.last[ino, field] = (now, last[1][ino, field][1])

    def _check_gone(self, ino: int) -> None:
        """An inode that the restored state does not have: every descriptor of it is stale."""
        assert outcome(self.mounted, "inode", ino) == ("errno", "ESTALE"), f"inode {ino} should be gone"
        for descriptor in self.mounted.descriptors(ino):
            for call in (os.fstat, lambda fd: os.pread(fd, 1, 0)):
                try:
                    call(descriptor)
                except OSError as error:
                    assert error.errno == 116, error  # noqa: PT017
                else:
                    raise AssertionError(f"inode {ino} is gone, but its descriptor works")

    def remount(self) -> None:
        """Unmount and mount: descriptors end, and with them what has no name."""
        self.mounted.close()
        self.native.close()
        self.live.unmount(self.name)
        nodes = self.model.snapshot()
        self.model.nodes = nodes
        self.model.opens.clear()
        self.root = self.live.mount(self.name)
        self.mounted = self._hold_mounted(nodes)
        self.native = Held(os.fspath(self.native_root))
        self._adopt(self.native, nodes, self.native_root)
        self.compare()

    def end(self, *, check: bool) -> None:
        """Let go; with ``check`` compare whole trees once more before, as a tree hash."""
        try:
            if not check or any(node.length > READ_WHOLE for node in self.model.nodes.values()):
                return  # A tree hash reads holes, too: terabytes.
            self.compare()
            mounted, native = (
                {path: facts._replace(mtime=0) for path, facts in hash_directory(root).facts.items()}
                for root in (self.root, self.native_root)
            )
            assert mounted == native
            workspace = self.live.workspace(self.name)
            with workspace.lock:
                held = hash_view(workspace.view, identity=True, holes=True)
            assert differences(hash_directory(self.root, identity=True, holes=True), held) == []
        finally:
            self.mounted.close()
            self.native.close()


class MountedMachine(FilesystemMachine):
    """Operations on mounted workspaces, and the verbs."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="cowfs-mounted-"))
        self.live = Live(self.path, inline=True)
        self.moments: dict[str, Moment] = {}
        self.agent: Agent | None = None
        self.live.engine.create("ws-1")
        model = Model(self.clock)
        self.new_world("ws-1", model, model.nodes)

    def new_world(self, name: str, model: Model, nodes: dict[int, Node]) -> MountedWorld:
        """Mount a workspace that is what ``nodes`` say."""
        world = MountedWorld(self.clock, self.live, name, model, nodes)
        self.worlds.append(world)
        return world

    def mounted_world(self, rank: int) -> MountedWorld:
        """One of the worlds."""
        world = self.world(rank)
        assert isinstance(world, MountedWorld)
        return world

    # -- verbs

    @rule(w=ranks, allow_empty=st.booleans())
    def checkpoint(self, w: int, allow_empty: bool) -> None:
        world = self.mounted_world(w)
        taken = self.live.engine.checkpoint(world.name, "message", allow_empty=allow_empty)
        if taken.changed:
            self.remember(world, taken.snapshot.id, world.moment())
        world.compare()

    def remember(self, world: MountedWorld, snapshot: str, moment: Moment) -> None:
        """A snapshot was made."""
        assert snapshot not in self.moments
        self.moments[snapshot] = moment
        world.line.append(snapshot)

    @rule(w=ranks, rank=ranks, discard=st.booleans())
    def restore(self, w: int, rank: int, discard: bool) -> None:
        world = self.mounted_world(w)
        if not world.line:
            return
        target, before = world.line[rank % len(world.line)], world.moment()
        done = self.live.engine.restore(world.name, target, discard=discard)
        if done.undo is not None and done.undo.id not in self.moments:
            self.remember(world, done.undo.id, before)
        world.clock.tick()
        world.step += 1
        world.go_to(self.moments[target])

    @rule(w=ranks, ino=ranks, at=st.integers(0, 9), seed=st.integers(0, 250), length=st.sampled_from([1, 5000, 9000]))
    def checkpoint_with_a_dirty_mapping(self, w: int, ino: int, at: int, seed: int, length: int) -> None:
        """What was stored through a shared mapping is in the snapshot, though nobody has synced it."""
        world = self.mounted_world(w)
        node = world.model.nodes.get(world.pick(ino, stat.S_IFREG) or 0)
        if node is None or not node.length or node.length > READ_WHOLE or node.xattrs or node.mode & 0o6000:
            return
        start = at * node.length // 10
        data = pattern(seed, min(length, node.length - start))
        agent = self.mapper()
        code = (
            "f = os.open({path!r}, os.O_RDWR | os.O_NOATIME); {m} = mmap.mmap(f, 0); os.close(f); "
            "{m}[{start}:{end}] = {data!r}"
        )
        for side, m in ((world.mounted, "m"), (world.native, "n")):
            made = agent(code.format(path=side.path(node.ino), m=m, start=start, end=start + len(data), data=data))
            assert made is None, made
        self.clock.tick()
        world.align()
        world.model.write(node.ino, start, data, Who())
        taken = self.live.engine.checkpoint(world.name, "dirty")
        assert taken.changed or not node.nlink  # what has no name is in no snapshot
        with self.live.workspace(world.name).lock:
            assert world.view.read(node.ino, 0, node.length) == world.model.read(node.ino, 0, node.length)
        assert agent("m.close(), n.flush(), n.close()") == (None, None, None)
        world.compare()
        if taken.changed:
            self.remember(world, taken.snapshot.id, world.moment())

    def mapper(self) -> Agent:
        """A process that maps files; in this one a page fault would hold the lock that the server needs."""
        if self.agent is None:
            self.agent = Agent()
        return self.agent

    @rule(w=ranks, rank=ranks, live=st.booleans())
    def fork(self, w: int, rank: int, live: bool) -> None:
        world = self.mounted_world(w)
        if len(self.worlds) >= WORKSPACES_MAX or not (live or world.line):
            return
        name = f"fork-{len(self.worlds)}"
        snapshot = None if live else world.line[rank % len(world.line)]
        (made,) = self.live.engine.fork(snapshot or world.name, name)
        assert made.head is not None
        if made.head not in self.moments:
            self.remember(world, made.head, world.moment())
        moment = self.moments[made.head]
        model = Model(self.clock)
        model.restore(moment[0])
        other = self.new_world(name, model, model.nodes)
        other.reserved = set(world.reserved)
        other.line = world.line[: world.line.index(made.head) + 1]
        other.relabel(moment[1])
        other.compare()

    @rule()
    def settle(self) -> None:
        self.live.engine.settle()
        self.compare_all()

    @rule(w=ranks)
    def remount(self, w: int) -> None:
        self.mounted_world(w).remount()

    @rule()
    @precondition(lambda self: len(self.worlds) > 1)
    def compare_all(self) -> None:
        for world in self.worlds:
            world.compare()

    def teardown(self) -> None:
        passed = sys.exc_info()[0] is None
        if self.agent is not None:
            self.agent.__exit__(None, None, None)
        try:
            for world in self.worlds:
                assert isinstance(world, MountedWorld)
                world.end(check=passed)
        finally:
            self.live.close()
            shutil.rmtree(self.path)


TestMounted = MountedMachine.TestCase
TestMounted.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, report_multiple_bugs=False)
TestMounted.pytestmark = [*needs_mounts, needs_root("owners and devices")]  # type: ignore[attr-defined]
