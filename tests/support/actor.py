"""Random operations and verbs on a store, each of which says what it has made durable."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from cowfs.errors import CowfsError
from cowfs.results import Snapshot
from cowfs.view.inode import SetAttr
from tests.support.lab import ME, Files, Lab

WORKSPACES_MAX = 4
SNAPSHOTS_MAX = 5
FILES_MAX = 12

Durable = tuple[str, ...]
"""Names of the workspaces whose live state is durable now."""


class Done(NamedTuple):
    """A step: what it was, and the workspaces (ids) whose live state it made durable."""

    name: str
    durable: frozenset[str] = frozenset()


class Actor:
    """Acts on ``lab``; ``source``: a directory to import from, empty at first, or None not to import."""

    def __init__(self, lab: Lab, source: Path | None) -> None:
        self.lab = lab
        self._source = source
        self._random = Random(0)
        self._number = ""

    def step(self, seed: int, number: int, kind: str = "") -> Done:
        """Do one thing, chosen by the two numbers and the state of the store, or what ``kind`` names."""
        self._number = f"{seed}-{number}"
        random = self._random = Random(f"{seed} {number}")
        names = [each.name for each in self.lab.engine.list()]
        if not names:
            act: Callable[[str], Durable] = self._create
        elif kind:
            act = getattr(self, "_" + kind)
        elif random.random() < 0.6:
            act = self._operate
        else:
            act = random.choices(
                (
                    self._sync, self._checkpoint, self._restore, self._undo, self._fork, self._remove, self._remove_one,
                    self._rename, self._label, self._settle, self._freeze, self._compact, self._collect, self._reopen,
                    self._create, self._import,
                ),
                (20, 22, 10, 4, 8, 4, 10, 2, 3, 18, 5, 3, 8, 3, 2, 2),
            )[0]  # fmt: skip
        workspace = random.choice(names) if names else ""
        try:
            durable = act(workspace)
        except CowfsError as error:
            return Done(f"{number} {act.__name__} {workspace}: {error.code}")
        found = {each.name: each.id for each in self.lab.engine.list()}
        return Done(f"{number} {act.__name__} {workspace}", frozenset(found[name] for name in durable if name in found))

    def _snapshots(self, workspace: str) -> list[Snapshot]:
        """Those made in the workspace, oldest first."""
        return [each for each in reversed(self.lab.engine.log(workspace)) if each.workspace == workspace]

    # ---- operations

    def _operate(self, workspace: str) -> Durable:
        files, random = self.lab.files(workspace), self._random
        names = files.names()
        regular = [name for name in names if stat.S_ISREG(files.inode(name).mode)]
        new = f"n{self._number}"
        if len(names) < 3 or not regular:
            files.create(new)
            return ()
        one, other = random.choice(regular), random.choice(regular)
        if len(names) > FILES_MAX:
            files.unlink(one)
            return ()
        random.choice(
            (
                lambda: files.create(new),
                lambda: self._write(files, one, random.choice((1, 300, 3000))),
                lambda: self._write(files, one, random.choice((1, 300, 3000))),
                lambda: self._write(files, one, random.choice((100, 5000, 40_000))),
                lambda: self._write(files, one, random.choice((100, 5000, 40_000))),
                lambda: files.set(one, size=random.randrange(6000)),
                lambda: files.rename(one, new),
                lambda: files.rename(one, other) if one != other else None,
                lambda: files.link(one, new),
                lambda: files.unlink(one),
                lambda: files.symlink(new, b"to/" + one.encode()),
                lambda: files.view.setxattr(files.ino(one), b"user.x", random.randbytes(20), 0, ME),
                lambda: files.view.setattr(files.ino(one), SetAttr(mode=random.choice((0o600, 0o644))), ME),
                lambda: files.view.mknod(1, new.encode(), stat.S_IFIFO | 0o600, 0, ME),
            )
        )()
        return ()

    def _write(self, files: Files, name: str, size: int) -> None:
        random = self._random
        data = random.randbytes(size) if random.randrange(2) else bytes([random.randrange(256)]) * size
        files.write(name, data, random.randrange(files.inode(name).size + 1000))

    # ---- verbs

    def _sync(self, workspace: str) -> Durable:
        self.lab.workspace(workspace).sync()
        return (workspace,)

    def _create(self, workspace: str) -> Durable:
        name = f"w{self._number}"
        self.lab.engine.create(name)
        return (name,)

    def _import(self, workspace: str) -> Durable:
        if self._source is None or self.lab.inline:
            return self._checkpoint(workspace)
        for number in range(5):
            (self._source / f"{self._number}-{number}").write_bytes(self._random.randbytes(3000))
        name = f"i{self._number}"
        self.lab.engine.import_tree(bytes(self._source), name, (), lambda _: None)
        return (name,)

    def _checkpoint(self, workspace: str) -> Durable:
        label = f"l{self._number}" if self._random.randrange(3) == 0 else None
        self.lab.engine.checkpoint(workspace, "m", label=label, allow_empty=self._random.randrange(4) == 0)
        return (workspace,)

    def _restore(self, workspace: str) -> Durable:
        log = self.lab.engine.log(workspace)
        if not log:
            return ()
        self.lab.engine.restore(workspace, self._random.choice(log).id, discard=self._random.randrange(3) == 0)
        return (workspace,)

    def _undo(self, workspace: str) -> Durable:
        self.lab.engine.undo(workspace)
        return (workspace,)

    def _fork(self, workspace: str) -> Durable:
        if len(self.lab.engine.list()) >= WORKSPACES_MAX:
            return self._remove(workspace)
        snapshots = self._snapshots(workspace)
        if snapshots and self._random.randrange(2):
            made = self.lab.engine.fork(self._random.choice(snapshots).id, f"f{self._number}", count=2)
            return tuple(each.name for each in made)
        made = self.lab.engine.fork(workspace, f"f{self._number}")
        return (workspace, *(each.name for each in made))

    def _remove(self, workspace: str) -> Durable:
        if len(self.lab.engine.list()) > 1:
            self.lab.engine.remove(workspace)
        return ()

    def _remove_one(self, workspace: str) -> Durable:
        snapshots = self._snapshots(workspace)
        for each in snapshots[: max(len(snapshots) - SNAPSHOTS_MAX, 1)]:
            self.lab.engine.remove(each.id)
        return ()

    def _rename(self, workspace: str) -> Durable:
        self.lab.engine.rename(workspace, f"r{self._number}")
        return ()

    def _label(self, workspace: str) -> Durable:
        snapshots = self._snapshots(workspace)
        if snapshots:
            self.lab.engine.label(self._random.choice(snapshots).id, "best", move=True)
        return ()

    # ---- what goes on behind

    def _settle(self, workspace: str) -> Durable:
        self.lab.engine.settle()
        return ()

    def _freeze(self, workspace: str) -> Durable:
        self.lab.freeze()
        return ()

    def _compact(self, workspace: str) -> Durable:
        self.lab.engine.catalog.compact(self.lab.clock())
        return ()

    def _collect(self, workspace: str) -> Durable:
        self.lab.engine.collect(False, lambda _: None)
        return ()

    def _reopen(self, workspace: str) -> Durable:
        self.lab.reopen()
        return tuple(each.name for each in self.lab.engine.list())
