"""Rounds of torture: programs that verify themselves, random verbs, processes killed at random, and a judgement."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from cowfs.client import connect
from cowfs.errors import Busy, CowfsError
from tests.cli.live import Live
from tests.torture.killer import Killer
from tests.torture.program import EXIT_GONE, Model, look, unlike

T = TypeVar("T")
History = list[list[int]]
PROGRAM = Path(__file__).with_name("program.py")
PATIENCE_SECONDS = 180.0
WORKSPACES, PROGRAMS = 2, 2
SNAPSHOTS_MAX = 12


@dataclass
class Report:
    """What happened. ``losses`` and ``errors`` must be empty; ``steps``: calls of programs that were acknowledged."""

    seed: int
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    verbs: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        kills = {"total": self.kills.total(), **dict(self.kills)}
        verbs = {"total": self.verbs.total(), **dict(self.verbs)}
        return vars(self) | {"kills": kills, "verbs": verbs, "seconds": round(self.seconds, 1)}


class Program:
    """One running program, and the history of what it did."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.history: History = [[0, 0]]
        self._progress = scratch / f"{name}.progress"
        self._process: subprocess.Popen[str] | None = None
        self.set_steps(0)

    def set_steps(self, steps: int) -> None:
        """From here on the last part of the history has so many steps."""
        self.history[-1][1] = steps
        self._progress.write_bytes(steps.to_bytes(8, "little"))

    def steps(self) -> int:
        """How many steps of the last part have been acknowledged."""
        return int.from_bytes(self._progress.read_bytes(), "little")

    def start(self, root: Path) -> None:
        """Let it go on in its directory below ``root``."""
        words = [sys.executable, str(PROGRAM), str(root / self.name), str(self._progress), json.dumps(self.history)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def end(self) -> tuple[int, dict[str, Any]]:
        """Stop it; its exit code and report."""
        process, self._process = self._process, None
        assert process is not None
        try:
            out, err = process.communicate("stop\n", timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return 1, {"steps": 0, "wrong": [f"hangs, after {self.steps()} steps"]}
        self.history[-1][1] = self.steps()
        return process.returncode, json.loads(out) if out else {"steps": 0, "wrong": [err[-1000:]]}

    def kill(self) -> None:
        """End it by force."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Workspace:
    """A workspace, its programs, and what each had done in every snapshot."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.programs = [Program(f"{name}-{number}", scratch) for number in range(PROGRAMS)]
        self.snapshots: dict[str, list[History]] = {}

    def histories(self) -> list[History]:
        """What each program has done so far."""
        return [
            [*map(list, program.history[:-1]), [program.history[-1][0], program.steps()]] for program in self.programs
        ]


class Campaign:
    """A store below ``directory``; :meth:`round` as often as one likes, :meth:`close` at the end."""

    def __init__(self, directory: Path, seed: int, kills_per_second: float) -> None:
        self.report = Report(seed)
        self._random = Random(seed)
        self._rate = kills_per_second
        self._seeds = iter(range(seed * 1000 + 1, seed * 1000 + 1000))
        self.live = Live(directory / "store")
        self.live.cowfs("init")
        self.live.cowfs("daemon", "start", "--workers", "2")
        self.client = connect(self.live.store)
        self.workspaces = [Workspace(f"ws{number}", directory) for number in range(WORKSPACES)]
        for workspace in self.workspaces:
            root = Path(self.client.create(workspace.name).path)
            for program in workspace.programs:
                (root / program.name).mkdir()
            self._remember(workspace, self.client.workspace(workspace.name).checkpoint("empty").snapshot.id)

    def _remember(self, workspace: Workspace, snapshot: str) -> None:
        workspace.snapshots[snapshot] = workspace.histories()

    def verb(self, name: str, call: Callable[[], T]) -> T:
        """Ask until it is answered: a daemon that is being replaced says Busy, one that is killed while it starts says
        nothing. The client asks a lost one again.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                done = call()
            except CowfsError as error:
                young = error.message.startswith("the daemon ended while it started")
                if not (isinstance(error, Busy) or young) or time.monotonic() > until:
                    raise
                threading.Event().wait(0.05)
                continue
            self.report.verbs[name] += 1
            return done

    # ---- a round ---------------------------------------------------------------------------------

    def round(self, seconds: float, everything: bool) -> None:
        """Let programs and verbs run for so long, kill meanwhile, then judge. ``everything``: the keeper too."""
        killer = Killer(self.live.store, Random(self._random.random()), self._rate)
        for workspace in self.workspaces:
            root = self._root(workspace.name)
            for program in workspace.programs:
                program.start(root)
        killer.start()
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self._live_verb(self._random.choice(self.workspaces))
            if everything:
                killer.everything()
            self._stop_programs(everything)
            for workspace in self.workspaces:
                self._quiet_verbs(workspace)
        finally:
            killer.stop()
            self.report.kills += killer.kills
            if self.report.errors or self.report.losses:
                self.report.errors += killer.log[-10:]
        self._judge()
        self.report.rounds += 1

    def _root(self, name: str) -> Path:
        return Path(self.verb("mount", lambda: self.client.mount(name)))

    def _live_verb(self, workspace: Workspace) -> None:
        """Something while its programs go on: a snapshot must hold what was acknowledged before."""
        before = workspace.histories()
        done = self.verb("checkpoint", lambda: self.client.workspace(workspace.name).checkpoint("under way"))
        after = workspace.histories()
        if self._random.randrange(3) == 0:
            root = self._root(done.snapshot.id)
            found = [
                self._position(root / p.name, a, b) for p, a, b in zip(workspace.programs, before, after, strict=True)
            ]
            if None not in found:
                workspace.snapshots[done.snapshot.id] = [each for each in found if each is not None]
            self.verb("umount", lambda: self.client.umount(done.snapshot.id))
        elif self._random.randrange(3) == 0:
            name = f"fork-{done.snapshot.id[-8:]}"
            self.verb("fork", lambda: self.client.fork(done.snapshot.id, name))
            self.verb("remove", lambda: self.client.remove(name, force=True))

    def _position(self, directory: Path, before: History, after: History) -> History | None:
        """How far the program was whose directory this is: from ``before`` up to one step beyond ``after``."""
        found = look(str(directory))
        model = Model()
        model.replay(before)
        seed, steps = before[-1]
        tried = []
        while wrong := unlike(found, model.seen()):
            tried.append((len(wrong), steps, wrong[:3]))
            if steps > after[-1][1]:
                self._lose(f"{directory} is in no state from {before} to {after}; nearest: {min(tried)}")
                return None
            model.apply(*model.choose(seed, steps))
            steps += 1
        return [*before[:-1], [seed, steps]]

    def _stop_programs(self, everything: bool) -> None:
        for workspace in self.workspaces:
            for program in workspace.programs:
                code, report = program.end()
                self.report.steps += report["steps"]
                if code and not (everything and code == EXIT_GONE):
                    what = report["wrong"] or ["the mount went away"]
                    self.report.errors += [f"{program.name} after {program.history}: {each:.300}" for each in what]

    def _quiet_verbs(self, workspace: Workspace) -> None:
        """What needs the programs to stand still: everything is where it was, also after a restore."""
        name = workspace.name
        self._settle_positions(workspace)
        snapshot = self.verb("checkpoint", lambda: self.client.workspace(name).checkpoint("still")).snapshot.id
        self._remember(workspace, snapshot)
        if changes := self.verb("diff", lambda: self.client.diff(snapshot, name)):
            self._lose(f"{name} differs from the snapshot {snapshot} just made: {changes[:5]}")
        target = self._random.choice(list(workspace.snapshots))
        self.verb("restore", lambda: self.client.workspace(name).restore(target))
        self._compare(workspace, target, self._root(name), "after the restore to")
        if self._random.randrange(2):
            fork = f"fork-{snapshot[-8:]}"
            self.verb("fork", lambda: self.client.fork(snapshot, fork))
            self._compare(workspace, snapshot, self._root(fork), "in a fork of")
            self.verb("remove", lambda: self.client.remove(fork, force=True))
        for program, history in zip(workspace.programs, workspace.snapshots[target], strict=True):
            program.history = [*map(list, history), [next(self._seeds), 0]]
            program.set_steps(0)
        for old in list(workspace.snapshots)[: max(len(workspace.snapshots) - SNAPSHOTS_MAX, 0)]:
            if old != target:
                self.verb("remove", lambda old=old: self.client.remove(old))  # type: ignore[misc]
                del workspace.snapshots[old]

    def _settle_positions(self, workspace: Workspace) -> None:
        """The last call of a program that was cut off may or may not have been carried out: find out which."""
        root = self._root(workspace.name)
        for program, history in zip(workspace.programs, workspace.histories(), strict=True):
            found = self._position(root / program.name, history, history)
            if found is not None:
                program.set_steps(found[-1][1])

    def _compare(self, workspace: Workspace, snapshot: str, root: Path, what: str) -> None:
        for program, history in zip(workspace.programs, workspace.snapshots[snapshot], strict=True):
            if wrong := self._differences(root, program, history):
                self._lose(f"{program.name} {what} {snapshot}, {history}: {wrong}")

    def _differences(self, root: Path, program: Program, history: History) -> list[str]:
        model = Model()
        model.replay(history)
        return model.differences(str(root / program.name))[:5]

    def _lose(self, what: str) -> None:
        self.report.losses.append(what)

    def _judge(self) -> None:
        """Nothing is killed any more: the store must be clean."""
        self.verb("list", self.client.workspaces)
        checked = self.live.run("fsck")
        if (checked.code, checked.out.strip()) != (0, "clean"):
            self._lose(f"fsck: {checked.out}{checked.err}")

    def close(self) -> None:
        """Stop everything, by force if need be."""
        for workspace in self.workspaces:
            for program in workspace.programs:
                program.kill()
        self.verb("stop", lambda: self.client.stop_daemon(force=True))
        self.client.close()
        self.live.end()
        if left := self.live.mounts():
            self._lose(f"left mounted: {left}")


def run(
    directory: Path, seed: int, *, seconds: float, rounds: int, kills: int, per_second: float, everything: int
) -> Report:
    """Rounds until there were ``rounds`` of them and ``kills`` kills, or something is wrong.

    In every so-manieth (``everything``) all processes are killed at once, the keeper too.
    """
    began = time.monotonic()
    campaign = Campaign(directory, seed, per_second)
    report = campaign.report
    try:
        while (report.rounds < rounds or report.kills.total() < kills) and not (report.losses or report.errors):
            campaign.round(seconds, everything=report.rounds % everything == everything - 1)
            print(json.dumps(report.as_json() | {"seed": seed}), file=sys.stderr, flush=True)
    finally:
        campaign.close()
        report.seconds = time.monotonic() - began
    return report
