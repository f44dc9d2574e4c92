"""Random events on a real store, each followed by a look at what it was about; everything is looked at in the end."""

from __future__ import annotations

import json
import os
import random as chance
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cowfs.client import connect
from cowfs.errors import Busy, Conflict, CowfsError, NotFound
from tests.cli.live import Live
from tests.mirror.actions import Actions, look
from tests.mirror.world import Point, State, Workspace, against_copy, copy_tree, unlike
from tests.mirror.world import look as seen
from tests.torture.killer import Killer, kill, processes

T = TypeVar("T")
PATIENCE_SECONDS = 90.0
WORKSPACES_MAX, SNAPSHOTS_MAX, HELD_MAX = 6, 24, 4
SETTLE_SECONDS = 60.0


class Lost(AssertionError):
    """Something is not as it was."""


class Campaign:
    """A store below ``directory``; :meth:`run`, then :meth:`close`. ``events`` are the last ones, for a report."""

    def __init__(self, directory: Path, seed: int, *, kills: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.events: deque[str] = deque(maxlen=60)
        self._directory = directory
        self._kills = kills
        self._random = chance.Random(seed)
        self._actions = Actions(chance.Random(seed + 1))
        self._numbers = iter(range(1, 1 << 30))
        self._workspaces: list[Workspace] = []
        self._points: dict[str, Point] = {}
        self._killing: threading.Timer | None = None
        (directory / "copies").mkdir()
        self.live = Live(directory / "store")
        self.live.cowfs("init")
        self.live.cowfs("daemon", "start", "--workers", "2")
        self.client = connect(self.live.store)
        self._create()

    # ---- asking ----------------------------------------------------------------------------------

    def _ask(self, verb: str, call: Callable[[], T], done: type[CowfsError] | None = None) -> tuple[T | None, bool]:
        """(answer, whether it was asked once). A daemon that is being replaced is asked again; ``done``: by then."""
        until = time.monotonic() + PATIENCE_SECONDS
        tries = 0
        while True:
            tries += 1
            try:
                answer = call()
            except CowfsError as error:
                if tries > 1 and done is not None and isinstance(error, done):
                    return None, False
                if (isinstance(error, Busy) or error.code == "internal") and time.monotonic() < until:
                    threading.Event().wait(0.05)
                    continue
                raise
            self.counts[verb] += 1
            return answer, tries == 1

    def _must(self, verb: str, call: Callable[[], T]) -> T:
        answer, _ = self._ask(verb, call)
        assert answer is not None
        return answer

    def _cli(self, *words: str) -> Any:
        """A command, asked again while the daemon is being replaced."""

        def call() -> Any:
            ended = self.live.run(*words, "--json")
            if ended.code in (1, 5):
                raise Busy(ended.err)
            if ended.code:
                raise Lost(f"cowfs {' '.join(words)}: {ended.err}")
            return json.loads(ended.out)

        return self._must(f"cowfs {words[0]}", call)

    def _by_command(self) -> bool:
        return not self._random.randrange(6)

    def _root(self, ref: str) -> Path:
        if self._by_command():
            return Path(str(self._cli("mount", ref)["path"]))
        return Path(self._must("mount", lambda: self.client.mount(ref)))

    # ---- looking ---------------------------------------------------------------------------------

    def _check(self, found: State, wanted: State, what: str) -> None:
        if wrong := unlike(found, wanted):
            raise Lost(f"{what}: " + "; ".join(wrong))

    def _verify(self, workspace: Workspace) -> None:
        self._check(seen(self._root(workspace.name)), workspace.state, f"{workspace.name} is not as it was left")

    def _verify_copy(self, workspace: Workspace) -> None:
        workspace.state = seen(self._root(workspace.name))
        if wrong := against_copy(workspace.state, workspace.copy):
            raise Lost(f"{workspace.name} is not like its copy: " + "; ".join(wrong))

    def _line(self, workspace: Workspace) -> list[str]:
        """The snapshots that it can be restored to; its own ones that were not removed must be among them."""
        log = {each.id for each in self._must("log", lambda: self.client.workspace(workspace.name).log())}
        for id_, point in list(self._points.items()):
            if point.owner == workspace.number and id_ not in log:
                if not point.automatic:
                    raise Lost(f"{workspace.name} has lost its snapshot {id_}")
                self._forget(id_)
        return [id_ for id_ in self._points if id_ in log]

    # ---- what there is ---------------------------------------------------------------------------

    def _add(self, name: str, number: int) -> Workspace:
        workspace = Workspace(number, name, self._directory / "copies" / f"ws-{number}")
        self._workspaces.append(workspace)
        return workspace

    def _remember(self, id_: str, workspace: Workspace, state: State, automatic: bool) -> None:
        if id_ not in self._points:
            copy = self._directory / "copies" / id_
            copy_tree(workspace.copy, copy)
            self._points[id_] = Point(workspace.number, copy, state, automatic)

    def _forget(self, id_: str) -> None:
        shutil.rmtree(self._points.pop(id_).copy)

    # ---- events ----------------------------------------------------------------------------------

    def _create(self) -> None:
        number = next(self._numbers)
        name = f"made-{number}"
        self._ask("create", lambda: self.client.create(name), done=Conflict)
        workspace = self._add(name, number)
        workspace.copy.mkdir(mode=0o755)
        self._verify_copy(workspace)

    def _import(self) -> None:
        source = self._random.choice(self._workspaces).copy
        number = next(self._numbers)
        name = f"imported-{number}"
        self._ask("import", lambda: self.client.import_tree(source, name), done=Conflict)
        workspace = self._add(name, number)
        copy_tree(source, workspace.copy)
        self._verify_copy(workspace)

    def _work(self) -> None:
        workspace = self._random.choice(self._workspaces)
        root = self._root(workspace.name)
        self._kill_soon()
        made = []
        for _ in range(self._random.choice((1, 3, 10, 40))):
            name, action = self._actions.choose(look(workspace.copy))
            made.append(name)
            outcome = _outcome(action, root), _outcome(action, workspace.copy)
            if outcome[0] != outcome[1]:
                raise Lost(f"{name} in {workspace.name}: {outcome[0]}, in a plain directory {outcome[1]}")
        self.counts["changes"] += len(made)
        self._note(f"{workspace.name}: {' '.join(made)}")
        self._verify_copy(workspace)

    def _hold(self) -> None:
        """Keep a file open for a while, whatever becomes of it."""
        workspace = self._random.choice(self._workspaces)
        files = look(workspace.copy).files
        if files and len(workspace.held) < HELD_MAX:
            flags = self._random.choice((os.O_RDONLY, os.O_RDWR))
            path = self._random.choice(files)
            workspace.held.append(os.open(self._root(workspace.name) / path, flags))
            self._note(f"{workspace.name}: holds {path!r}")
        else:
            workspace.let_go()

    def _checkpoint(self) -> None:
        workspace = self._random.choice(self._workspaces)
        self._kill_soon()
        if self._by_command():
            made = self._cli("checkpoint", workspace.name, "-m", "now")["snapshot"]
            id_, owner, automatic = made["id"], made["workspace"], made["automatic"]
        else:
            snapshot = self._must("checkpoint", lambda: self.client.workspace(workspace.name).checkpoint()).snapshot
            id_, owner, automatic = snapshot.id, snapshot.workspace, snapshot.automatic
        self._note(f"{workspace.name}: checkpoint {id_}")
        if id_ in self._points:  # nothing had changed
            self._check(self._points[id_].state, workspace.state, f"{workspace.name} is said to be {id_}")
        if owner == workspace.name:  # the head of a fork that has not changed is its parent's, and goes with that
            self._remember(id_, workspace, workspace.state, automatic)

    def _restore(self) -> None:
        workspace = self._random.choice(self._workspaces)
        line = self._line(workspace)
        if not line:
            return
        target, discard = self._random.choice(line), not self._random.randrange(3)
        self._note(f"{workspace.name}: restore of {target}{' discarding' if discard else ''}")
        self._kill_soon()
        before = workspace.state
        if self._by_command():
            done = self._cli("restore", workspace.name, target, *(["--discard"] if discard else []))
            undo = done["undo"] and done["undo"]["id"]
        else:
            restored = self._must(
                "restore", lambda: self.client.workspace(workspace.name).restore(target, discard=discard)
            )
            undo = restored.undo and restored.undo.id
        if undo is not None:
            # Asked twice, the state before may be the restored one already.
            state = seen(self._root(undo))
            self._must("umount", lambda: [self.client.umount(undo)])
            if state == before:
                self._remember(undo, workspace, before, automatic=True)
            else:
                self._check(state, self._points[target].state, f"{undo}, before the restore of {workspace.name}")
        self._became(workspace, target)
        if not self._random.randrange(3) and undo in self._points:
            self._note(f"{workspace.name}: undo to {undo}")
            self._must("undo", lambda: self.client.workspace(workspace.name).restore(undo))
            self._became(workspace, undo)

    def _became(self, workspace: Workspace, id_: str) -> None:
        workspace.state = self._points[id_].state
        self._verify(workspace)
        copy_tree(self._points[id_].copy, workspace.copy)

    def _fork(self) -> None:
        if len(self._workspaces) >= WORKSPACES_MAX:
            self._remove_workspace()
            return
        parent, number = self._random.choice(self._workspaces), next(self._numbers)
        ids = self._line(parent)
        ref = self._random.choice([parent.name, *ids])
        state, copy = (self._points[ref].state, self._points[ref].copy) if ref in ids else (parent.state, parent.copy)
        name, count = f"fork-{number}", self._random.choice((None, 1, 2))
        self._note(f"fork of {ref} in {parent.name}: {name} {count}")
        self._kill_soon()
        self._ask("fork", lambda: self.client.fork(ref, name, count=count), done=Conflict)
        for each in [name] if count is None else [f"{name}-{turn + 1}" for turn in range(count)]:
            workspace = self._add(each, next(self._numbers))
            workspace.state = state
            copy_tree(copy, workspace.copy)
            if self._random.randrange(2):
                self._verify(workspace)

    def _remove_workspace(self) -> None:
        if len(self._workspaces) < 3:
            return
        workspace = self._random.choice(self._workspaces)
        self._note(f"rm {workspace.name}")
        self._kill_soon()
        if force := bool(self._random.randrange(2)):
            self._ask("rm", lambda: self.client.remove(workspace.name, force=True), done=NotFound)
        workspace.let_go()
        if not force:
            self._unmount(workspace)
            self._ask("rm", lambda: self.client.remove(workspace.name), done=NotFound)
        self._workspaces.remove(workspace)
        shutil.rmtree(workspace.copy)
        for id_ in [id_ for id_, point in self._points.items() if point.owner == workspace.number]:
            self._forget(id_)

    def _unmount(self, workspace: Workspace) -> None:
        workspace.let_go()
        self._root(workspace.name)
        self._ask("umount", lambda: self.client.umount(workspace.name), done=NotFound)

    def _remove_snapshot(self) -> None:
        if not self._points:
            return
        id_ = self._random.choice(list(self._points))
        self._note(f"rm {id_}")
        self._kill_soon()
        with suppress(NotFound):  # automatic ones go by themselves
            self._ask("rm snapshot", lambda: self.client.remove(id_), done=NotFound)
        self._forget(id_)

    def _look_at_snapshot(self) -> None:
        if not self._points:
            return
        id_ = self._random.choice(list(self._points))
        self._note(f"look at {id_}")
        try:
            self._check(seen(self._root(id_)), self._points[id_].state, f"snapshot {id_}")
        except NotFound:
            if not self._points[id_].automatic:
                raise
            self._forget(id_)
            return
        self._ask("umount", lambda: self.client.umount(id_), done=NotFound)

    def _diff(self) -> None:
        workspace = self._random.choice(self._workspaces)
        line = self._line(workspace)
        if line:
            id_ = self._random.choice(line)
            changes = self._ask("diff", lambda: self.client.diff(id_, workspace.name))[0]
            same = self._points[id_].state == workspace.state
            if same and changes:
                raise Lost(f"diff of {id_} and {workspace.name}, which are the same: {changes[:5]}")
            named = {change.path for change in changes or ()} | {change.old_path for change in changes or ()}
            before, after = self._points[id_].state, workspace.state
            for path in before.keys() ^ after.keys():
                above = {path, *(path[:at] for at in range(len(path)) if path[at : at + 1] == b"/")}
                if not above & named:
                    raise Lost(f"diff of {id_} and {workspace.name} does not name {path!r}")

    def _rename(self) -> None:
        workspace = self._random.choice(self._workspaces)
        name = f"renamed-{next(self._numbers)}"
        self._note(f"rename of {workspace.name} to {name}")
        self._unmount(workspace)
        self._ask("rename", lambda: self.client.workspace(workspace.name).rename(name), done=NotFound)
        workspace.name = name
        self._verify(workspace)

    def _umount(self) -> None:
        workspace = self._random.choice(self._workspaces)
        self._note(f"umount {workspace.name}")
        self._unmount(workspace)

    def _settle(self) -> None:
        self._note("settle")
        until = time.monotonic() + SETTLE_SECONDS
        while self._must("status", self.client.daemon)["queues"]["settle"]:
            if time.monotonic() > until:
                raise Lost("what is frozen is not settled")

    def _collect(self) -> None:
        self._note("gc")
        self._kill_soon()
        self._must("gc", self.client.collect)

    def _restart(self) -> None:
        force = bool(self._random.randrange(2))
        workers = self._random.choice(("1", "2", "3"))
        self._note(f"stop{' by force' if force else ''}, start with {workers} workers")
        if force:
            self._must("stop", lambda: [self.client.stop_daemon(force=True)])
        self._let_go()
        if not force:
            self._must("stop", lambda: [self.client.stop_daemon()])
        self._ask("start", lambda: self._cli("daemon", "start", "--workers", workers))
        self._verify_some()

    def _let_go(self) -> None:
        for workspace in self._workspaces:
            workspace.let_go()

    def _kill(self) -> None:
        if not self._kills:
            return
        found = processes(self.live.store)
        kind = self._random.choice(("worker", "worker", "supervisor", "settler", "everything"))
        self._note(f"kill of {kind}")
        self.counts[f"kill {kind}"] += 1
        if kind == "everything":
            Killer(self.live.store, self._random, 1.0).everything()
            self._let_go()
        else:
            for pid in found[kind]:
                kill(pid)
        self._verify_some()

    def _verify_some(self) -> None:
        for workspace in self._random.sample(self._workspaces, min(3, len(self._workspaces))):
            self._verify(workspace)

    def _kill_soon(self) -> None:
        """Now and then: kill something but the keeper while the next thing is under way."""
        if not self._kills or self._random.randrange(5):
            return
        kind = self._random.choice(("worker", "worker", "supervisor", "settler"))

        def now() -> None:
            for pid in processes(self.live.store)[kind]:
                self.counts[f"kill {kind}"] += kill(pid)

        self._wait_killed()
        self._note(f"kill of {kind} in between")
        self._killing = threading.Timer(self._random.random() * 0.02, now)
        self._killing.start()

    def _wait_killed(self) -> None:
        if self._killing is not None:
            self._killing.join()

    # ---- all together ----------------------------------------------------------------------------

    def _note(self, what: str) -> None:
        self.events.append(what)

    def run(self, events: int, seconds: float) -> None:
        """So many events, or for so long; then look at everything. Raises Lost, CowfsError, OSError."""
        weighted: dict[Callable[[], None], int] = {
            self._work: 14, self._checkpoint: 8, self._restore: 8, self._fork: 4, self._hold: 2,
            self._remove_snapshot: 2, self._look_at_snapshot: 2, self._diff: 2, self._rename: 1, self._umount: 2,
            self._settle: 2, self._collect: 2, self._restart: 1, self._kill: 2, self._remove_workspace: 1,
            self._import: 1, self._create: 1,
        }  # fmt: skip
        until = time.monotonic() + seconds
        for _ in range(events):
            if time.monotonic() > until:
                break
            event = self._random.choices(list(weighted), list(weighted.values()))[0]
            if event in (self._import, self._create) and len(self._workspaces) >= WORKSPACES_MAX:
                continue
            event()
            self._wait_killed()
            self.counts["events"] += 1
            while len(self._points) > SNAPSHOTS_MAX:
                self._remove_snapshot()
        self.verify_all()

    def verify_all(self) -> None:
        """Look at every workspace and snapshot, and let fsck look."""
        self._note("the end")
        for workspace in self._workspaces:
            self._verify(workspace)
            self._line(workspace)
        for id_, point in list(self._points.items()):
            try:
                root = self._root(id_)
            except NotFound:
                if not point.automatic:
                    raise
                continue
            self._check(seen(root), point.state, f"snapshot {id_}")
            self._ask("umount", lambda id_=id_: self.client.umount(id_), done=NotFound)  # type: ignore[misc]
        checked = self.live.run("fsck")
        if (checked.code, checked.out.strip()) != (0, "clean"):
            raise Lost(f"fsck: {checked.out}{checked.err}")

    def close(self) -> None:
        """Stop everything."""
        self._wait_killed()
        self._let_go()
        self.live.end()
        self.client.close()
        if left := self.live.mounts():
            raise Lost(f"left mounted: {left}")


def _outcome(action: Callable[[Path], None], root: Path) -> str:
    try:
        action(root)
    except OSError as error:
        return f"errno {error.errno}"
    except ValueError as error:
        return str(error)
    return "done"
