"""A PostgreSQL server on a directory of a workspace, and its own programs that look at it."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

USER = "postgres"
PROGRAM_SECONDS = 240.0
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",  # smaller than the tables: pages are written and read all the time
    "checkpoint_timeout": "30s",
    "max_wal_size": "32MB",  # the server's own checkpoints come every few seconds under load
    "min_wal_size": "32MB",
}


def programs() -> Path | None:
    """Where the newest installed PostgreSQL (of Debian) has its programs."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_amcheck")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def why_not() -> str:
    """Why PostgreSQL cannot run here; empty when it can."""
    if os.geteuid():
        return "only root can become the user as whom PostgreSQL runs"
    if programs() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    return "" if any(entry.pw_name == USER for entry in pwd.getpwall()) else f"there is no user {USER}"


class Server:
    """PostgreSQL on ``data``, which lies in a workspace, by a bind mount at ``place``; socket and log beside that.

    ``place`` lies in a directory that every user may enter. Programs raise AssertionError when they fail.
    """

    def __init__(self, data: Path, place: Path) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._user = pwd.getpwnam(USER)
        self.place = place
        self._beside = place.with_name(place.name + "-run")
        for directory in (self._beside, data):
            directory.mkdir(exist_ok=True, mode=0o700)
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self.place.mkdir()
        subprocess.run(["mount", "--bind", str(data), str(place)], check=True)

    def command(self, program: str, *words: str) -> subprocess.Popen[str]:
        """A program of PostgreSQL, started as its user, both outputs in a pipe."""
        return subprocess.Popen(
            [str(self._programs / program), *words],
            user=self._user.pw_uid,
            group=self._user.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGHOST": str(self._beside), "PGDATABASE": USER},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, program: str, *words: str) -> str:
        """What a program prints that must succeed."""
        process = self.command(program, *words)
        try:
            printed, _ = process.communicate(timeout=PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        assert process.returncode == 0, f"{program} {' '.join(words)}: {printed[-4000:]}{self.log()[-4000:]}"
        return printed.strip()

    def make(self) -> None:
        """A new cluster in the directory."""
        self.run("initdb", "-D", str(self.place), "-A", "trust", "--no-sync")
        with open(self.place / "postgresql.conf", "a") as settings:
            settings.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())

    def start(self) -> None:
        """Start; in a fork, and after a restore, the process that its lock file names is another server's or gone."""
        (self.place / "postmaster.pid").unlink(missing_ok=True)
        log, options = self._beside / "log", f"-k {self._beside}"
        # pg_ctl hands its own output on to the server, which would keep a pipe open for ever.
        self._control("-w", "-l", str(log), "-o", options, "start")

    def stop(self) -> None:
        """Stop it; its clients are cut off."""
        self._control("-w", "-m", "fast", "stop")

    def _control(self, *words: str) -> None:
        self.run("pg_ctl", "-D", str(self.place), *words)

    def log(self) -> str:
        """What the server has logged since it was made."""
        log = self._beside / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def recovered(self) -> bool:
        """Whether it found itself crashed and recovered from its write-ahead log."""
        return "database system was not properly shut down; automatic recovery in progress" in self.log()

    def ask(self, sql: str) -> str:
        """Values of one row, separated by ``|``."""
        return self.run("psql", "-v", "ON_ERROR_STOP=1", "-XAtc", sql)

    def leave(self) -> None:
        """Stop what still runs and take the bind mount away."""
        try:
            if (self.place / "postmaster.pid").exists():
                self._control("-w", "-m", "immediate", "stop")
        finally:
            subprocess.run(["umount", str(self.place)], check=True)
