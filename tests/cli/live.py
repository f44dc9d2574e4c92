"""A real store with a real daemon, driven by the command line as another process, and cleaned up whatever happens."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@contextmanager
def living(store: Path) -> Iterator["Live"]:
    """A new store at ``store``. Its daemon ends with the context, whatever happens; then nothing may be left mounted,
    and fsck find nothing."""
    made = Live(store)
    try:
        made.cowfs("init")
        yield made
    finally:
        made.end()
    assert made.cowfs("fsck") == "clean"
    assert not made.mounts()


class Live:
    """``store`` does not exist until ``cowfs("init")``."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "COWFS_STORE": str(store),
            **{name: os.environ[name] for name in ("HOME", "XDG_RUNTIME_DIR") if name in os.environ},
        }

    def words(self, *words: str) -> list[str]:
        """The command line of a ``cowfs`` command."""
        return [sys.executable, "-P", "-m", "cowfs_cli", *words]

    def run(self, *words: str) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            self.words(*words), env=self.env, capture_output=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run_as_nobody(self, *words: str) -> Ended:
        """Run a command as another user, who need not be able to read the interpreter's own files."""
        code = (
            "import os, sys, cowfs_cli.main, cowfs_cli.examine, cowfs.client.wire\n"
            f"import cowfs_cli.commands.{words[0]}_\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "sys.argv[0] = 'cowfs'; cowfs_cli.main.main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *words], env=self.env, capture_output=True, timeout=TIMEOUT_SECONDS
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def cowfs(self, *words: str) -> str:
        """What a command that must succeed prints."""
        ended = self.run(*words)
        assert ended.code == 0, f"cowfs {' '.join(words)}: {ended.err}{self.log()}"
        return ended.out.rstrip("\n")

    def json(self, *words: str) -> Any:
        """The same with ``--json``, read."""
        return json.loads(self.cowfs(*words, "--json"))

    def log(self) -> str:
        """What the daemon has logged."""
        log = self.store / "daemon" / "log"
        return "\n" + log.read_text() if log.exists() else ""

    def pids(self) -> list[int]:
        """The daemon's processes: supervisor first."""
        status = self.json("daemon", "status")
        return [status["supervisor"]["pid"], *(each["pid"] for each in status["workers"] + status["settlers"])]

    def end(self) -> None:
        """Stop the daemon by force; kill it by id if it does not."""
        if self.run("daemon", "status").code == 3:
            return
        pid = self.pids()[0]
        try:
            stopped = self.run("daemon", "stop", "--force")
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            raise
        assert stopped.code == 0, stopped.err + self.log()

    def mounts(self) -> list[str]:
        """Mount points of this store, whoever made them."""
        store_id = (self.store / "superblock").read_bytes()[16:32].hex()
        with open("/proc/self/mountinfo") as lines:
            return [line.split()[4] for line in lines if store_id in line.split()[4]]
