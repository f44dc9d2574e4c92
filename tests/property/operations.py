"""Random POSIX operations on a filesystem and its model, as rules of a Hypothesis state machine.

A :class:`World` is one filesystem (the subject) with the model that it must equal. The rules pick a world, inodes by
their rank among those that the model has, names from a small pool and sizes around page and block edges, so that
collisions, replacements and partial pages are common and failures shrink to a few readable calls.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.support import acl
from tests.support.compare import Changes, Seen, Who, look, outcome
from tests.support.model import FILE_MAX, Model
from tests.support.node import Node

START = 1_700_000_000_000_000_000
"""The clock's first value in ns; explicit times are far below it."""


class Clock:
    """A clock that stands still during an operation."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def tick(self) -> None:
        """The next operation comes later."""
        self.now += 1_000_003


class World(ABC):
    """A subject and its model. Subclasses say how numbers are aligned and how an inode is looked at.

    ``reserved`` are the inodes of which native filesystems show reserved pages, sometimes, as data.
    """

    reserves: bool = False
    """Whether the subject is such a filesystem."""

    uids: tuple[int, ...] = (0, 1000)
    """Callers' user ids; a native directory is used as root."""

    through_kernel: bool = False
    """Whether it is a mount of ours: the kernel takes capabilities away before it asks for what may then fail, and does
    not say who calls fallocate or copy_file_range, so that these clear set-id bits even for root."""

    def __init__(self, clock: Clock, model: Model) -> None:
        self.clock = clock
        self.model = model
        self.reserved: set[int] = set()

    @property
    @abstractmethod
    def subject(self) -> Any:
        """The filesystem under test, at this moment."""

    @abstractmethod
    def align(self) -> None:
        """Before an operation: let both give the same number to a new inode."""

    @abstractmethod
    def settled(self, gone: set[int]) -> None:
        """After an operation: compare what it may have touched; ``gone`` are the inodes that ended."""

    def see(self, ino: int) -> Seen:
        """One inode of the subject."""
        return look(self.subject, ino)

    def expect(self, ino: int) -> Seen:
        """The same inode of the model."""
        return look(self.model, ino)

    def compare(self, *inodes: int) -> None:
        """Fail when an inode differs; without arguments, look at all."""
        for ino in inodes or sorted(self.model.nodes):
            seen, expected = self.see(ino), self.expect(ino)
            assert seen == expected, f"inode {ino}:\n  has    {seen}\n  should {expected}"

    def run(self, operation: str, *args: Any, **options: Any) -> Any:
        """One operation on both; returns its outcome."""
        self.clock.tick()
        self.align()
        before = set(self.model.nodes)
        seen = outcome(self.subject, operation, *args, **options)
        expected = outcome(self.model, operation, *args, **options)
        if expected[0] == "ok" and operation in {"unlink", "rmdir", "rename"}:
            seen = (seen[0], None) if seen[0] == "ok" else seen
        assert seen == expected, f"{operation}{args}{options or ''} gives {seen}, should give {expected}"
        self.settled(before - set(self.model.nodes))
        return expected

    def set_xattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """setxattr; not of the value that is there, since only some filesystems count that as a change."""
        if self.model.nodes[ino].xattrs.get(name) != value:
            self.run("setxattr", ino, name, value, flags, Who())

    # what rules choose from

    def pick(self, rank: int, kind: int = 0) -> int | None:
        """An inode by rank, of one kind if given."""
        inodes = [ino for ino, node in sorted(self.model.nodes.items()) if not kind or stat.S_IFMT(node.mode) == kind]
        return inodes[rank % len(inodes)] if inodes else None

    def directory(self, rank: int) -> int:
        """A directory by rank, mostly one; now and then something else, for ENOTDIR."""
        return (self.pick(rank // 8) if rank % 8 == 7 else self.pick(rank // 8, stat.S_IFDIR)) or 1

    def file(self, rank: int) -> int:
        """A regular file by rank, mostly; now and then something else, for EISDIR and EINVAL."""
        return (None if rank % 16 == 15 else self.pick(rank // 16, stat.S_IFREG)) or self.pick(rank // 16) or 1


ranks = st.integers(0, 400)
names = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f", b"\xc3\x28", b"n" * 255, b"o" * 256])
modes = st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o2755, 0o6711, 0o2644, 0o1777, 0o000])
kinds = st.sampled_from([stat.S_IFREG] * 5 + [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
edges = st.sampled_from(
    [0, 1, 511, 513, 4095, 4096, 4097, 8192, 12288, 40_000, 65_536, 131_071, 131_072, 135_168, 300_000]
)
sizes = st.one_of(edges, st.integers(0, 20_000))
lengths = st.one_of(st.sampled_from([0, 1, 512, 4096, 4097, 8192, 131_072, 140_000]), st.integers(1, 20_000))
times = st.sampled_from([-1_000_000_001, -1, 0, 1, 999_999_999, 1_234_567_890_123_456_789])
xattr_names = st.sampled_from([b"user.a", b"user.b", b"trusted.t", b"trusted." + b"x" * 250])
callers = st.tuples(st.integers(0, 1), st.sampled_from([0, 1000]), st.sampled_from([0, 0o022, 0o077]))


def pattern(seed: int, length: int) -> bytes:
    """Bytes that differ by seed and place, and shrink to nothing clever."""
    unit = bytes((seed + i) % 255 + 1 for i in range(255))
    return (unit * (length // 255 + 1))[:length]


def privileges(node: Node) -> bool:
    """Whether a file has set-id bits or capabilities to lose."""
    return bool(node.mode & (stat.S_ISUID | stat.S_ISGID) or b"security.capability" in node.xattrs)


class FilesystemMachine(RuleBasedStateMachine):
    """Every operation of a view. Subclasses fill ``worlds``."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.worlds: list[World] = []

    def world(self, rank: int) -> World:
        """One of the worlds."""
        return self.worlds[rank % len(self.worlds)]

    def who(self, world: World, caller: tuple[int, int, int]) -> Who:
        """A caller whom the world allows."""
        return Who(uid=world.uids[caller[0] % len(world.uids)], gid=caller[1], umask=caller[2])

    @rule(w=ranks, parent=ranks, name=names, kind=kinds, mode=modes, rdev=st.integers(0, 3), caller=callers)
    def mknod(self, w: int, parent: int, name: bytes, kind: int, mode: int, rdev: int, caller: Any) -> None:
        world = self.world(w)
        device = os.makedev(1, rdev) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        world.run("mknod", world.directory(parent), name, kind | mode, device, self.who(world, caller))

    @rule(w=ranks, parent=ranks, name=names, mode=modes, caller=callers)
    def mkdir(self, w: int, parent: int, name: bytes, mode: int, caller: Any) -> None:
        world = self.world(w)
        world.run("mkdir", world.directory(parent), name, mode & 0o1777, self.who(world, caller))

    @rule(w=ranks, parent=ranks, name=names, length=st.sampled_from([0, 1, 59, 60, 600, 4095, 4096]), caller=callers)
    def symlink(self, w: int, parent: int, name: bytes, length: int, caller: Any) -> None:
        world = self.world(w)
        world.run("symlink", world.directory(parent), name, b"t" * length, self.who(world, caller))

    @rule(w=ranks, parent=ranks, mode=modes, caller=callers)
    def tmpfile(self, w: int, parent: int, mode: int, caller: Any) -> None:
        world = self.world(w)
        made = world.run("tmpfile", world.pick(parent, stat.S_IFDIR), mode, self.who(world, caller))
        world.run("opened", made[1], True, Who())

    @rule(w=ranks, source=ranks, parent=ranks, name=names)
    def link(self, w: int, source: int, parent: int, name: bytes) -> None:
        world = self.world(w)
        world.run("link", world.pick(source), world.directory(parent), name, Who())

    def existing(self, world: World, rank: int, name: bytes) -> tuple[int, bytes]:
        """A directory and a name, mostly one that is there."""
        found = [(node.ino, entry) for _, node in sorted(world.model.nodes.items()) for entry in sorted(node.entries)]
        if not found or rank % 8 == 7:
            return world.directory(rank // 8), name
        return found[rank // 8 % len(found)]

    @rule(w=ranks, at=ranks, name=names)
    def unlink(self, w: int, at: int, name: bytes) -> None:
        world = self.world(w)
        world.run("unlink", *self.existing(world, at, name), Who())

    @rule(w=ranks, at=ranks, name=names)
    def rmdir(self, w: int, at: int, name: bytes) -> None:
        world = self.world(w)
        world.run("rmdir", *self.existing(world, at, name), Who())

    @rule(
        w=ranks, at=ranks, name=names, to=ranks, new_name=names, caller=callers,
        flags=st.sampled_from([0, 0, 0, 0, 1, 2, 2, 4, 3, 5, 6, 8]), replace=st.booleans(),
    )  # fmt: skip
    def rename(
        self, w: int, at: int, name: bytes, to: int, new_name: bytes, caller: Any, flags: int, replace: bool
    ) -> None:
        world = self.world(w)
        target = self.existing(world, to, new_name) if replace else (world.directory(to), new_name)
        source = self.existing(world, at, name)
        if world.reserves and target[1] in world.model.nodes[target[0]].entries:
            flags &= 3  # ext4 sets the directory's times even when it refuses a rename with a whiteout
        if flags & 4 and acl.DEFAULT in world.model.nodes[source[0]].xattrs:
            return  # Linux gives a whiteout the access list that follows, which means nothing on one
        world.run("rename", *source, *target, flags, self.who(world, caller))

    @rule(w=ranks, parent=ranks, name=names)
    def lookup(self, w: int, parent: int, name: bytes) -> None:
        world = self.world(w)
        world.run("lookup", world.directory(parent), name)

    @rule(w=ranks, ino=ranks)
    def readlink(self, w: int, ino: int) -> None:
        world = self.world(w)
        world.run("readlink", world.pick(ino, stat.S_IFLNK) or world.pick(ino))

    @rule(w=ranks, ino=ranks, mode=modes)
    def chmod(self, w: int, ino: int, mode: int) -> None:
        world = self.world(w)
        node = world.model.nodes[world.pick(ino) or 1]
        if not stat.S_ISLNK(node.mode):
            world.run("setattr", node.ino, Changes(mode=mode), Who())

    @rule(w=ranks, ino=ranks, uid=st.sampled_from([None, 0, 1000]), gid=st.sampled_from([None, 0, 77]))
    def chown(self, w: int, ino: int, uid: int | None, gid: int | None) -> None:
        world = self.world(w)
        if uid is not None or gid is not None:
            world.run("setattr", world.pick(ino), Changes(uid=uid, gid=gid), Who())

    @rule(w=ranks, ino=ranks, atime=times, mtime=times)
    def utimens(self, w: int, ino: int, atime: int, mtime: int) -> None:
        world = self.world(w)
        world.run("setattr", world.pick(ino), Changes(atime=atime, mtime=mtime), Who())

    @rule(w=ranks, ino=ranks, size=st.one_of(sizes, st.sampled_from([FILE_MAX, FILE_MAX + 1])))
    def truncate(self, w: int, ino: int, size: int) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if size > FILE_MAX and world.through_kernel and privileges(node):
            return  # The kernel drops a capability first, and asks whether a file may be so large then.
        world.run("setattr", node.ino, Changes(size=size), Who())

    @rule(w=ranks, ino=ranks, offset=sizes, length=lengths, seed=st.integers(0, 250), append=st.booleans())
    def write(self, w: int, ino: int, offset: int, length: int, seed: int, append: bool) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if append and node.length + length > FILE_MAX:
            return
        world.run("write", node.ino, offset, pattern(seed, length), Who(), append=append)

    @rule(w=ranks, ino=ranks, offset=st.sampled_from([FILE_MAX - 5000, FILE_MAX]))
    def write_far(self, w: int, ino: int, offset: int) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if not (world.through_kernel and privileges(node)):
            world.run("write", node.ino, offset, b"far", Who())

    @rule(w=ranks, ino=ranks, offset=sizes, length=st.one_of(lengths, st.just(FILE_MAX)),
          mode=st.sampled_from([0, 1, 3, 3, 3, 16, 17, 2, 0x40]), caller=callers)  # fmt: skip
    def fallocate(self, w: int, ino: int, offset: int, length: int, mode: int, caller: Any) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if world.reserves and mode != 3:
            world.reserved.add(node.ino)
            length = min(length, 1 << 20)  # it may well be refused for want of space
        if not (world.through_kernel and privileges(node)):
            world.run("fallocate", node.ino, mode, offset, length, self.who(world, caller))

    @rule(w=ranks, source=ranks, ino=ranks, source_offset=sizes, offset=sizes, length=lengths, caller=callers)
    def copy_range(
        self, w: int, source: int, ino: int, source_offset: int, offset: int, length: int, caller: Any
    ) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if not (world.through_kernel and privileges(node)):
            who = self.who(world, caller)
            world.run("copy_range", world.file(source), source_offset, node.ino, offset, length, who)

    @rule(w=ranks, source=ranks, ino=ranks, at=st.sampled_from([0, 4096, 16_384, 131_072]),
          offset=st.sampled_from([0, 4096, 131_072]), length=st.sampled_from([16_384, 131_072, 1 << 20]),
          fill=st.booleans())  # fmt: skip
    def clone_range(self, w: int, source: int, ino: int, at: int, offset: int, length: int, fill: bool) -> None:
        """What is taken by reference: whole pages, of a file that may well have been written just now."""
        world = self.world(w)
        node, origin = world.model.nodes[world.file(ino)], world.model.nodes[world.file(source)]
        if world.through_kernel and (privileges(node) or privileges(origin)):
            return
        if fill:
            world.run("write", origin.ino, at, bytes([at % 251]) * 40_000, Who())
        world.run("copy_range", origin.ino, at, node.ino, offset, length, Who())

    @rule(w=ranks, ino=ranks, offset=sizes, length=lengths)
    def read(self, w: int, ino: int, offset: int, length: int) -> None:
        world = self.world(w)
        world.run("read", world.file(ino), offset, length)

    @rule(w=ranks, ino=ranks, offset=sizes, whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]))
    def seek(self, w: int, ino: int, offset: int, whence: int) -> None:
        world = self.world(w)
        target = world.pick(ino, stat.S_IFREG) or world.file(ino)
        if target not in world.reserved:
            world.run("seek", target, offset, whence)

    @rule(w=ranks, ino=ranks, name=xattr_names,
          length=st.sampled_from([0, 1, 30, 100]), seed=st.integers(0, 250), flags=st.integers(0, 3))  # fmt: skip
    def setxattr(self, w: int, ino: int, name: bytes, length: int, seed: int, flags: int) -> None:
        world = self.world(w)
        node = world.model.nodes[world.pick(ino) or 1]
        if name.startswith(b"user.") and not (stat.S_ISREG(node.mode) or node.is_dir):
            name = b"trusted.t"
        world.set_xattr(node.ino, name, pattern(seed, length), flags)

    @rule(w=ranks, ino=ranks, name=st.sampled_from([b"user.a", b"trusted.t"]))
    def removexattr(self, w: int, ino: int, name: bytes) -> None:
        world = self.world(w)
        node = world.model.nodes[world.pick(ino) or 1]
        if name in node.xattrs or name == b"trusted.t":
            world.run("removexattr", node.ino, name, Who())
            world.run("getxattr", node.ino, name)

    @rule(w=ranks, ino=ranks)
    def give_capability(self, w: int, ino: int) -> None:
        world = self.world(w)
        node = world.model.nodes[world.file(ino)]
        if stat.S_ISREG(node.mode):
            value = (0x02000001).to_bytes(4, "little") + (1 << 10).to_bytes(4, "little") + bytes(12)
            world.set_xattr(node.ino, b"security.capability", value)

    @rule(w=ranks, ino=ranks, user=st.integers(0, 7), group=st.integers(0, 7), other=st.integers(0, 7),
          named=st.sampled_from([None, (1000, 6), (77, 5)]), mask=st.integers(0, 7), default=st.booleans())  # fmt: skip
    def setfacl(
        self, w: int, ino: int, user: int, group: int, other: int, named: Any, mask: int, default: bool
    ) -> None:
        world = self.world(w)
        node = world.model.nodes[world.pick(ino) or 1]
        if stat.S_ISREG(node.mode) or node.is_dir:
            value = acl.pack(acl.simple(user, group, other, named, mask if named else None))
            world.set_xattr(node.ino, acl.DEFAULT if default else acl.ACCESS, value)

    @rule(w=ranks, ino=ranks, writable=st.booleans())
    def open(self, w: int, ino: int, writable: bool) -> None:
        world = self.world(w)
        world.run("opened", world.file(ino), writable, Who())

    @rule(w=ranks, rank=ranks)
    def close(self, w: int, rank: int) -> None:
        world = self.world(w)
        held = sorted(ino for ino, count in world.model.opens.items() if count)
        if held:
            world.run("released", held[rank % len(held)], False, Who())
