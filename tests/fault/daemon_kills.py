"""``python -m tests.fault.daemon_kills``: supervisor and worker are killed at each call of each verb through the API.

The client asks again by itself, so that no verb fails and each is carried out once. Prints kills by role and verb.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from cowfs.client import Store, connect
from cowfs.client.wire import LostDaemon
from cowfs.errors import CowfsError
from tests.cli.live import Live

DOOM = Path(__file__).parents[1] / "support" / "doom"
ROLES = ("supervise", "worker")
KEEPER = """
import sys
from cowfs_daemon import keeper
keeper.FAST_SECONDS = 0.0  # many supervisors are to die here, and none is to wait for that
from cowfs_daemon.__main__ import main
sys.exit(main())
"""
START_SECONDS = 60.0
Verb = Callable[["Doomed", str], Callable[[], None]]
"""(daemon, a name never used before) -> makes ready, and gives the verb, which verifies its own result."""


class Doomed:
    """A store whose daemon's processes kill themselves on demand."""

    def __init__(self, directory: Path) -> None:
        self.live = Live(directory / "store")
        self.source = directory / "source"
        self.source.mkdir()
        (self.source / "file").write_text("imported")
        self._doom = directory / "doom"
        self.live.cowfs("init")
        environment = {**self.live.env, "COWFS_TEST_DOOM": str(self._doom)}
        environment["PYTHONPATH"] = os.pathsep.join((str(DOOM), environment["PYTHONPATH"]))
        self._log = (directory / "log").open("wb")
        words = [sys.executable, "-c", KEEPER, "run", "--store", str(self.live.store), "--workers", "1"]
        self._keeper = subprocess.Popen(words, env=environment, stdout=self._log, stderr=self._log, cwd="/")
        self.client = self._connected()

    def _connected(self) -> Store:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                connect(self.live.store, start=False).close()
                return connect(self.live.store)
            except CowfsError:
                if time.monotonic() > until:
                    raise
                threading.Event().wait(0.05)

    def killed(self, role: str, number: int, verb: Callable[[], None]) -> bool:
        """Do the verb while the process of that role kills itself at its ``number``-th point; whether it got there."""
        scratch = self._doom.with_suffix(".new")
        scratch.write_text(f"{role} {number}")
        scratch.rename(self._doom)
        try:
            verb()
        finally:
            try:
                self._doom.unlink()
                died = False
            except FileNotFoundError:
                died = True
        return died

    def path(self, name: str) -> Path:
        """Where a workspace is mounted."""
        return Path(self.client.mount(name))

    def forget(self, prefix: str) -> None:
        """Remove what was made for one verb."""
        for each in self.client.workspaces():
            if each.name.startswith(prefix):
                self.client.remove(each.name, force=True)

    def close(self) -> None:
        """Stop everything; the store is clean."""
        try:
            checked = self.live.run("fsck", "--deep")
            assert (checked.code, checked.out.strip()) == (0, "clean"), checked.out + checked.err
        finally:
            self.client.stop_daemon(force=True)
            self.client.close()
            assert self._keeper.wait(START_SECONDS) == 0
            self._log.close()
            assert self.live.mounts() == []


def _workspace(doomed: Doomed, name: str) -> Path:
    """A mounted workspace with a file, a snapshot labelled one, and a change since."""
    ws = doomed.client.create(name)
    root = doomed.path(name)
    (root / "file").write_text("one")
    ws.checkpoint("one", label="one")
    (root / "file").write_text("changed")
    return root


def _content(doomed: Doomed, ref: str) -> bytes:
    """The file; a stream that was cut after it had begun is not asked for again by the client, but here."""
    try:
        return b"".join(doomed.client.show(ref, "file"))
    except LostDaemon:
        return b"".join(doomed.client.show(ref, "file"))


def _messages(doomed: Doomed, name: str) -> list[str]:
    return [each.message for each in doomed.client.workspace(name).log()]


def _names(doomed: Doomed, prefix: str) -> list[str]:
    return [each.name for each in doomed.client.workspaces() if each.name.startswith(prefix)]


def create(doomed: Doomed, name: str) -> Callable[[], None]:
    """``create``"""

    def verb() -> None:
        doomed.client.create(name)
        assert _names(doomed, name) == [name]

    return verb


def import_tree(doomed: Doomed, name: str) -> Callable[[], None]:
    """``import``"""

    def verb() -> None:
        doomed.client.import_tree(doomed.source, name)
        assert _content(doomed, name) == b"imported"

    return verb


def checkpoint(doomed: Doomed, name: str) -> Callable[[], None]:
    """``checkpoint`` with a label"""
    _workspace(doomed, name)

    def verb() -> None:
        made = doomed.client.workspace(name).checkpoint("two", label="two")
        assert made.changed
        assert _messages(doomed, name) == ["two", "one"]
        assert doomed.client.snapshot(f"{name}@two").id == made.snapshot.id
        assert _content(doomed, made.snapshot.id) == b"changed"

    return verb


def restore(doomed: Doomed, name: str) -> Callable[[], None]:
    """``restore``, and what it kept to be undone"""
    root = _workspace(doomed, name)

    def verb() -> None:
        done = doomed.client.workspace(name).restore("@one")
        assert done.undo is not None
        assert done.changed_inodes > 0
        assert (root / "file").read_text() == "one"
        assert len(_messages(doomed, name)) == 2
        doomed.client.workspace(name).undo()
        assert (root / "file").read_text() == "changed"

    return verb


def undo(doomed: Doomed, name: str) -> Callable[[], None]:
    """``restore --undo``"""
    root = _workspace(doomed, name)
    doomed.client.workspace(name).restore("@one")

    def verb() -> None:
        doomed.client.workspace(name).undo()
        assert (root / "file").read_text() == "changed"

    return verb


def fork(doomed: Doomed, name: str) -> Callable[[], None]:
    """``fork`` of a changed workspace, twice"""
    _workspace(doomed, name)

    def verb() -> None:
        made = doomed.client.fork(name, name + "-f", count=2)
        assert [each.name for each in made] == [f"{name}-f-1", f"{name}-f-2"]
        assert _names(doomed, name + "-f") == [f"{name}-f-1", f"{name}-f-2"]
        assert _content(doomed, f"{name}-f-2") == b"changed"

    return verb


def rename(doomed: Doomed, name: str) -> Callable[[], None]:
    """``rename``"""
    doomed.client.create(name)

    def verb() -> None:
        doomed.client.workspace(name).rename(name + "-r")
        assert _names(doomed, name) == [name + "-r"]

    return verb


def label(doomed: Doomed, name: str) -> Callable[[], None]:
    """``set --label``"""
    made = doomed.client.create(name).checkpoint("m").snapshot

    def verb() -> None:
        assert doomed.client.label(made.id, "good").labels == ("good",)

    return verb


def remove(doomed: Doomed, name: str) -> Callable[[], None]:
    """``rm`` of a mounted workspace"""
    _workspace(doomed, name)

    def verb() -> None:
        doomed.client.remove(name)
        assert _names(doomed, name) == []

    return verb


def remove_snapshot(doomed: Doomed, name: str) -> Callable[[], None]:
    """``rm`` of a snapshot"""
    _workspace(doomed, name)

    def verb() -> None:
        doomed.client.remove(f"{name}@one")
        assert _messages(doomed, name) == []

    return verb


def umount(doomed: Doomed, name: str) -> Callable[[], None]:
    """``umount``"""
    _workspace(doomed, name)

    def verb() -> None:
        doomed.client.umount(name)
        assert name not in [each["ref"] for each in doomed.client._wire.call("GET", "/v1/mounts")]

    return verb


VERBS: tuple[Verb, ...] = (
    create, import_tree, checkpoint, restore, undo, fork, rename, label, remove, remove_snapshot, umount,
)  # fmt: skip


def every(doomed: Doomed, role: str, verb: Verb, numbers: Iterator[int]) -> int:
    """Kill at each of ``numbers``, until the verb ends before one; how many kills."""
    kills = 0
    for number in numbers:
        name = f"{verb.__name__.replace('_', '-')}-{role[0]}-{number}"
        ready = verb(doomed, name)
        try:
            if not doomed.killed(role, number, ready):
                break
        except BaseException as error:
            error.add_note(f"{verb.__name__}: {role} killed at point {number}")
            raise
        kills += 1
        doomed.forget(name)
    return kills


def run(directory: Path, step: int, first: int, roles: tuple[str, ...] = ROLES) -> dict[str, dict[str, int]]:
    """Kills by role and verb, at every ``step``-th point from the ``first`` on."""
    doomed = Doomed(directory)
    found: dict[str, Counter[str]] = {role: Counter() for role in roles}
    try:
        for role in roles:
            for verb in VERBS:
                found[role][verb.__name__] = every(doomed, role, verb, iter(range(first, 10**6, step)))
    finally:
        doomed.close()
    return {role: dict(kills) for role, kills in found.items()}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="kill at every so-manieth point")
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-kills-") as scratch:
        kills = run(Path(scratch), options.step, options.first)
    print(json.dumps(kills, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
