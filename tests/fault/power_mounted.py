"""A recorded run through the real daemon: a program that works in a mount, verbs, workers that are killed.

The program's every step is a function of a seed and a number (:mod:`tests.torture.program`), so each state that a
power loss may leave is compared with the state after each step. Workspaces go by their names here.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from cowfs.client import connect
from cowfs.errors import Busy, Conflict, CowfsError, NotFound
from cowfs.formats.checksum import block_id
from cowfs.view.reading import ReadView
from cowfs.view.room import Room
from cowfs.view.view import View
from tests.cli.live import Live
from tests.support.lab import Files, Lab
from tests.support.losses import STORE, Moment
from tests.support.recordfs import Recorded
from tests.support.roomy import TestDisk
from tests.torture.killer import kill, processes
from tests.torture.program import Model, Seen, look, perform, unlike

WORKSPACE = "ws"
PATIENCE_S = 60.0
NOTE = b"user.note"


def name_of(state: dict[str, Seen]) -> str:
    """The same for equal states of a directory."""
    return block_id(repr(sorted(state.items())).encode()).hex()


def seen_in(view: ReadView | View) -> str:
    """The name of what a view's root directory holds."""
    files = Files(view)  # type: ignore[arg-type]
    state = {}
    for name in files.names():
        inode = files.inode(name)
        mode, kind = stat.S_IMODE(inode.mode), stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG:
            note = view.getxattr(inode.ino, NOTE) if NOTE in view.listxattr(inode.ino) else None
            state[name] = Seen("file", mode, inode.nlink, view.read(inode.ino, 0, inode.size), note)
        elif kind == stat.S_IFLNK:
            state[name] = Seen("link", mode, 0, view.readlink(inode.ino), None)
        else:
            state[name] = Seen("dir", mode, 0, b"", None)
    return name_of(state)


def look_by_name(lab: Lab) -> Moment:
    """What a store shows, in the names of :func:`name_of`."""
    engine = lab.engine
    live = {each.name: seen_in(lab.workspace(each.name).view) for each in engine.list()}
    snapshots = {}
    for each in engine.catalog.snapshots.values():
        state = engine.host.state(engine._chain(each.layer))
        snapshots[each.id] = seen_in(ReadView(state, Room(TestDisk())))
    return Moment("", 0, live, snapshots, {}, frozenset())


class MountedRun:
    """``folder``: for the recording. Let go of with :meth:`close`, whatever happens."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.recorded = Recorded(folder)
        self.live = Live(self.recorded.path / STORE)
        self.moments: list[Moment] = []
        self._seed = seed
        self._random = Random(f"mounted {seed}")
        self._model = Model()
        self._states: dict[str, str] = {}
        self._snapshots: dict[str, str] = {}
        self._models: dict[str, list[list[int]]] = {}
        self._history: list[list[int]] = [[seed * 1000, 0]]
        self.kills = 0

    def _note(self, step: str, *durable: str) -> None:
        """Remember what holds from here on."""
        count = self.recorded.operations
        if WORKSPACE in self._states:
            self._states[WORKSPACE] = name_of(self._model.seen())
        self.moments.append(Moment(step, count, dict(self._states), dict(self._snapshots), {}, frozenset(durable)))

    def run(self, steps: int) -> None:
        """Steps of a program, verbs between them, a worker killed now and then; then everything is stopped."""
        self.live.cowfs("init")
        self._note("init")
        self.live.cowfs("daemon", "start", "--workers", "1")
        with connect(self.live.store) as self._client:
            handle = self._client.create(WORKSPACE)
            self._states[WORKSPACE] = ""
            self._note("create", WORKSPACE)
            self._root = handle.path
            verbs = (
                [self._fsync] * 8 + [self._checkpoint] * 5 + [self._restore] * 2 + [self._fork, self._collect]
                + [self._kill] * 2 + [self._remove]
            )  # fmt: skip
            for _ in range(steps):
                if self._random.random() < 0.75:
                    self._step()
                else:
                    self._random.choice(verbs)()
            wrong = unlike(look(self._root), self._model.seen())
            assert not wrong, wrong
            self._client.stop_daemon(force=True)
        until = time.monotonic() + PATIENCE_S
        while any(processes(self.live.store).values()):
            assert time.monotonic() < until, "the daemon does not end"
        self._note("stop", *self._states)

    def _step(self) -> None:
        seed, number = self._history[-1]
        what = self._model.choose(seed, number)
        perform(self._root, *what)
        self._model.apply(*what)
        self._history[-1][1] += 1
        self._note(f"{number} {what[0]} {what[1][0]}")

    def _ask(self, call: Callable[[], object], done: type[CowfsError] | None = None) -> None:
        """Ask until it is answered: a worker that was killed is being replaced. ``done``: what a second try may get."""
        until = time.monotonic() + PATIENCE_S
        for tries in itertools.count():
            try:
                call()
                return
            except CowfsError as error:
                if tries and done is not None and isinstance(error, done):
                    return
                if time.monotonic() > until or not (isinstance(error, Busy) or error.code == "internal"):
                    raise
            threading.Event().wait(0.05)

    def _fsync(self) -> None:
        names = [name for name, node in self._model.names.items() if node.kind == "file"]
        path = os.path.join(self._root, self._random.choice(names)) if names else self._root
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._note("fsync", WORKSPACE)

    def _made(self) -> None:
        """Every snapshot that is new holds what there is now."""
        ids = [each.id for each in self._client.workspace(WORKSPACE).log()]
        now = name_of(self._model.seen())
        self._snapshots = {each: self._snapshots.get(each, now) for each in ids}
        for each in ids:
            self._models.setdefault(each, [list(part) for part in self._history])

    def _checkpoint(self) -> None:
        empty = self._random.randrange(4) == 0
        self._ask(lambda: self._client.workspace(WORKSPACE).checkpoint("m", allow_empty=empty))
        self._made()
        self._note("checkpoint", WORKSPACE)

    def _restore(self) -> None:
        if not self._snapshots:
            return
        target = self._random.choice(list(self._snapshots))
        self._ask(lambda: self._client.workspace(WORKSPACE).restore(target))
        self._made()
        self._history = [*map(list, self._models[target]), [self._seed * 1000 + len(self.moments), 0]]
        self._model = Model()
        self._model.replay(self._history)
        self._note(f"restore {target}", WORKSPACE)

    def _fork(self) -> None:
        name = f"f{len(self.moments)}"
        self._ask(lambda: self._client.fork(WORKSPACE, name), Conflict)
        self._made()
        self._states[name] = name_of(self._model.seen())
        self._note(f"fork {name}", WORKSPACE, name)

    def _remove(self) -> None:
        forks = [name for name in self._states if name != WORKSPACE]
        if forks:
            self._ask(lambda: self._client.remove(forks[0], force=True), NotFound)
            del self._states[forks[0]]
        elif len(self._snapshots) > 3:
            oldest = next(reversed(self._snapshots))
            self._ask(lambda: self._client.remove(oldest), NotFound)
            self._made()
        self._note("remove")

    def _collect(self) -> None:
        self._ask(self._client.collect)
        self._note("collect")

    def _kill(self) -> None:
        for pid in processes(self.live.store)["worker"]:
            self.kills += kill(pid)
        self._note("kill")

    def close(self) -> None:
        """Stop the daemon by force, and unmount."""
        try:
            if self.live.store.exists():
                self.live.end()
        finally:
            self.recorded.close()


def opens_as_left(store: Path) -> list[str]:
    """Start a daemon on what a power loss has left; what is wrong with that."""
    live = Live(store)
    try:
        checked = live.run("fsck")
        return (
            [] if (checked.code, checked.out.strip()) == (0, "clean") else [f"cowfs fsck: {checked.out}{checked.err}"]
        )
    finally:
        live.end()
