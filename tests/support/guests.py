"""The guest's server as a process of this machine, behind a serial port that has no machine.

What it is asked for must not happen to the machine that tests: it may not set the clock, it has a host name, an /etc
and mounts of its own, and without root's rights, which these need, it can do none of that anyway.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cowfs_cli.agent import folder
from cowfs_cli.guests.channel import GuestChannel
from tests.support.mounting import ROOT
from tests.support.serialport import SerialPort

_APART = 'mount --bind "$1" /etc && shift && exec "$@"'


@dataclass
class Inside:
    """``socket`` is what the host connects to, ``agent`` what programs inside do, ``etc`` the server's /etc."""

    socket: Path
    etc: Path
    agent: Path
    program: Path
    words: list[str]
    process: subprocess.Popen[bytes]

    def channel(self, seconds: float = 30.0) -> GuestChannel:
        """A channel to it."""
        return GuestChannel(str(self.socket), seconds=seconds)

    def guest(self, *words: str) -> subprocess.Popen[str]:
        """A program inside that asks for something."""
        env = {"COWFS_AGENT": str(self.agent), "PATH": os.environ["PATH"]}
        command = [sys.executable, str(self.program), *words]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def again(self) -> None:
        """Kill the server, and start another one."""
        self.process.kill()
        self.process.wait()
        self.process = subprocess.Popen(self.words)


@contextmanager
def serving(directory: Path, *words: str) -> Iterator[Inside]:
    """A server that ends with the context, whatever happens; ``words``: more of its command line."""
    program, agent, etc = directory / "cowfs-guest", directory / "inside" / "agent.sock", directory / "etc"
    folder.program(program)
    etc.mkdir()
    port = SerialPort(directory / "vm.sock")
    command = [sys.executable, str(program), "serve", "--port", port.inside, "--agent-socket", str(agent), *words]
    if "--root" not in words:
        command += ["--root", "/proc"]  # which cannot be frozen
    if ROOT:
        harmless = ["setpriv", "--bounding-set", "-sys_time", "unshare", "--mount", "--uts"]
        command = [*harmless, "sh", "-c", _APART, "sh", str(etc), *command]
    try:
        inside = Inside(port.path, etc, agent, program, command, subprocess.Popen(command))
        try:
            yield inside
        finally:
            inside.process.terminate()
            try:
                inside.process.wait(30)
            finally:
                inside.process.kill()
                inside.process.wait()
    finally:
        port.close()
