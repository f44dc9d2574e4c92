"""A store for engine tests: counting clock and ids, files by path, clean stops, kills, and fsck after each."""

from __future__ import annotations

import itertools
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cowfs.blocks.segments import SEGMENT_TARGET, SegmentWriter
from cowfs.blocks.writer import BlockWriter
from cowfs.engine import Engine
from cowfs.errors import Conflict, Corrupt
from cowfs.fsck import check_store
from cowfs.geometry import Geometry
from cowfs.host import Host
from cowfs.layers.journal import Limits
from cowfs.settle.delta import SettledLayer, settle_layer
from cowfs.settle.importer import make_root
from cowfs.settle.process import Settler
from cowfs.view.inode import Caller, Inode, SetAttr
from cowfs.view.view import View
from cowfs.workspace import Env, Workspace
from tests.support.treehash import TreeHash, hash_view

T = TypeVar("T")

ME = Caller(uid=0, gid=0, pid=1, umask=0o022)


STEPS = ("", "reopen", "kill", "settle", "settle kill", "kill settle")
"""What may happen to a store between a verb and a look (:meth:`Lab.do`)."""


class Ids:
    """Ids in the order in which they are asked for."""

    def __init__(self, first: int = 1) -> None:
        self._numbers = itertools.count(first)

    def __call__(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers):06d}"


class Ticks:
    """A clock in ns that goes on by one second at each look."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.now += 1_000_000_000
        return self.now


class Files:
    """Operations by path on a view; a missing lock is no matter in one thread."""

    def __init__(self, view: View) -> None:
        self.view = view

    def inode(self, path: str) -> Inode:
        """The inode of a path; "" is the root. Raises KeyError."""
        inode = self.view.inode(1)
        for name in filter(None, path.split("/")):
            found = self.view.lookup(inode.ino, name.encode())
            if found is None:
                raise KeyError(path)
            inode = found
        return inode

    def ino(self, path: str) -> int:
        """The inode number of a path."""
        return self.inode(path).ino

    def split(self, path: str) -> tuple[int, bytes]:
        """(inode of the directory, name)"""
        above, _, name = path.rpartition("/")
        return self.ino(above), name.encode()

    def exists(self, path: str) -> bool:
        """Whether a path names anything."""
        try:
            self.inode(path)
        except KeyError:
            return False
        return True

    def mkdir(self, path: str, mode: int = 0o755) -> int:
        """Make a directory; its number."""
        return self.view.mkdir(*self.split(path), mode, ME).ino

    def create(self, path: str, mode: int = 0o644) -> int:
        """Make an empty regular file; its number."""
        return self.view.mknod(*self.split(path), stat.S_IFREG | mode, 0, ME).ino

    def write(self, path: str, data: bytes, offset: int = 0) -> int:
        """Write, making the file when it does not exist; its number."""
        ino = self.ino(path) if self.exists(path) else self.create(path)
        assert self.view.write(ino, offset, data, ME) == len(data)
        return ino

    def read(self, path: str) -> bytes:
        """The whole content."""
        inode = self.inode(path)
        return self.view.read(inode.ino, 0, inode.size)

    def symlink(self, path: str, target: bytes) -> int:
        """Make a symbolic link; its number."""
        return self.view.symlink(*self.split(path), target, ME).ino

    def link(self, old: str, new: str) -> None:
        """One more name."""
        self.view.link(self.ino(old), *self.split(new), ME)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self.view.unlink(*self.split(path), ME)

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        self.view.rmdir(*self.split(path), ME)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Move a name."""
        self.view.rename(*self.split(old), *self.split(new), flags, ME)

    def set(self, path: str, **changes: Any) -> Inode:
        """setattr by field name."""
        return self.view.setattr(self.ino(path), SetAttr(**changes), ME)

    def names(self, path: str = "") -> list[str]:
        """The names in a directory, sorted."""
        found = (name.decode() for _, name, _, _ in self.view.readdir(self.ino(path)))
        return sorted(name for name in found if name not in (".", ".."))


class InlineSettler(Settler):
    """The settler's work in this process: a child takes a second to start on a busy machine."""

    def __init__(self, engine: Engine, segment_bytes: int = SEGMENT_TARGET) -> None:
        self._engine = engine
        self._segment_bytes = segment_bytes

    def make_root(self, mode: int, uid: int, gid: int, time: int) -> bytes:
        """As :meth:`Settler.make_root`."""
        geometry = self._engine.store.superblock.geometry
        return self._stored(lambda writer: make_root(writer, geometry, mode, uid, gid, time))

    def settle(self, parent_root: bytes, spans: Iterable[tuple[str, int, int]]) -> SettledLayer:
        """As :meth:`Settler.settle`."""
        geometry = self._engine.store.superblock.geometry
        at_rest = self._engine.blocks
        return self._stored(lambda writer: settle_layer(at_rest, writer, geometry, parent_root, spans))

    def _stored(self, work: Callable[[BlockWriter], T]) -> T:
        segment_id, segment = self._segment()
        writer = BlockWriter(self._engine.blocks, segment)
        try:
            result = work(writer)
            writer.sync()
            assert not self._engine.jobs.leases.commit(*writer.batch())
            writer.committed()
            if writer.segment.full:
                writer.segment.seal()
        finally:
            writer.close()
            writer.segment.close()
            self._engine.jobs.segments.release(segment_id)
        return result

    def _segment(self) -> tuple[int, SegmentWriter]:
        while True:
            segment_id, path = self._engine.jobs.segments.take()
            try:
                return segment_id, SegmentWriter(path, segment_id, target_bytes=self._segment_bytes)
            except (Corrupt, Conflict):
                self._engine.jobs.segments.refuse(segment_id)

    def close(self) -> None:
        """Nothing runs."""


class EagerHost(Host):
    """Wants every changed workspace frozen while ``eager``, as if its live layer were large."""

    eager = False

    def wants_freeze(self) -> list[str]:
        """See Host.wants_freeze."""
        return self.opened() if self.eager else super().wants_freeze()


class Lab:
    """A store and its open engine. Nothing runs in the background; call ``engine.settle()``.

    ``inline``: settle in this process, in segments that are full at ``segment_bytes``.
    """

    segment_bytes = SEGMENT_TARGET

    def __init__(
        self, path: Path, geometry: Geometry | None = None, limits: Limits | None = None, inline: bool = True
    ) -> None:
        self._set(path, limits, inline, 1)
        Engine.create_store(path, self.clock, bytes(range(16)), geometry)
        self.engine = self.open()

    def _set(self, path: Path, limits: Limits | None, inline: bool, first_id: int) -> None:
        self.path = path
        self.inline = inline
        self.clock = Ticks()
        self.ids = Ids(first_id)
        self.limits = limits or Limits()

    @classmethod
    def existing(
        cls,
        path: Path,
        limits: Limits | None = None,
        *,
        inline: bool = True,
        first_id: int = 500_000,
        segment_bytes: int = SEGMENT_TARGET,
    ) -> Lab:
        """A store that another process left; new ids begin with ``first_id``, far from those it gave."""
        lab = cls.__new__(cls)
        lab._set(path, limits, inline, first_id)
        lab.segment_bytes = segment_bytes
        lab.engine = lab.open()
        return lab

    def open(self) -> Engine:
        """Open the store at ``path``."""
        engine = Engine.open(self.path, self.clock, self.ids, self._host)
        if self.inline:
            engine.settler.close()
            engine.settler = InlineSettler(engine, self.segment_bytes)
        return engine

    def _host(self, env: Env) -> Host:
        return EagerHost(replace(env, limits=self.limits))

    def reopen(self) -> None:
        """A clean stop and start."""
        self.engine.close()
        self.engine = self.open()

    def kill(self) -> None:
        """Go on with a copy of the directory as it is at this instant, as after a kill of the process."""
        copy = self.path.with_name(self.path.name + "+")
        shutil.copytree(self.path, copy)
        with suppress(OSError):
            self.engine.close()
        shutil.rmtree(self.path)
        copy.rename(self.path)
        self.engine = self.open()

    def freeze(self) -> None:
        """Freeze every changed workspace without a snapshot; settles a layer on the way."""
        host = self.engine.host
        assert isinstance(host, EagerHost)
        host.eager = True
        try:
            self.engine.settle_next()
        finally:
            host.eager = False

    def do(self, steps: str) -> None:
        """``reopen``, ``kill`` or ``settle``, several separated by a blank, or none."""
        for step in steps.split():
            {"reopen": self.reopen, "kill": self.kill, "settle": self.engine.settle}[step]()

    def close(self) -> None:
        """Close the engine and check the store."""
        self.engine.close()
        self.engine = self.open()
        self.check()
        self.engine.close()

    def check(self) -> None:
        """fsck must find nothing."""
        engine = self.engine
        problems = list(
            check_store(engine.catalog.tables(), engine.blocks, engine.store.superblock.geometry, deep=True)
        )
        assert not problems, problems

    def workspace(self, name: str) -> Workspace:
        """The open workspace of that name."""
        return self.engine.host.workspace(self.engine.open_workspace(name))

    def files(self, name: str) -> Files:
        """Operations by path on the live view; ask again after a restore."""
        return Files(self.workspace(name).view)

    def hash(self, name: str) -> TreeHash:
        """Everything in the live state: content, metadata, numbers, holes."""
        return hash_view(self.workspace(name).view, identity=True, holes=True)

    def journal_files(self, name: str) -> list[int]:
        """Numbers of the journal files of a workspace."""
        folder = self.path / "journals" / self.engine.workspace(name).id
        return sorted(int(path.stem) for path in folder.glob("*.journal"))
