"""``python -m tests.vm``: a real kernel and a real server inside, from boot to a copy of its frozen disk.

``--disk FILE`` takes a raw image with an ext4 root made elsewhere (a file of a workspace, too) instead of making one.
Prints a JSON object with what was shown and how long it took; exit code 1 and a traceback when anything was wrong.
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
from pathlib import Path

from cowfs.errors import Conflict
from cowfs_cli.guests.channel import GuestChannel
from tests.vm import image
from tests.vm.machine import Machine, running

BUILD = Path(__file__).resolve().parents[2] / "build" / "vm"


WRITES = 400
_WRITER = f"rm -f /state; i=0; while [ $i -lt {WRITES} ]; do i=$((i+1)); echo $i >> /state; echo $i; done"
"""Says each number after it has written it."""


class Show:
    """The steps, in their order, on one running machine whose disk is ``disk``."""

    def __init__(self, machine: Machine, disk: Path, scratch: Path) -> None:
        self._machine = machine
        self._disk = disk
        self._scratch = scratch
        self._asked: list[bytes] = []
        self._guest: GuestChannel

    def run(self) -> dict[str, float]:
        """Seconds of each step. Raises AssertionError."""
        took = {"boot": self._machine.wait_up()}
        with GuestChannel(str(self._machine.socket), answer=self._answer) as self._guest:
            steps = (
                self.ping, self.exec, self.clock, self.freeze, self.thaws_itself, self.agent, self.trim, self.hygiene,
            )  # fmt: skip
            for step in steps:
                began = time.monotonic()
                step()
                took[step.__name__] = round(time.monotonic() - began, 3)
        took["again"] = self._machine.wait_up()  # another host, on a port without connections
        return took

    def _answer(self, line: bytes) -> bytes:
        self._asked.append(line)
        return b'{"ok": {"snapshot": "snap-of-the-host", "changed": true}}\n'

    def _output(self, *argv: str) -> str:
        out = bytearray()
        done = self._guest.exec(argv, on_stdout=out.extend, on_stderr=sys.stderr.buffer.write)
        assert done.exit_code == 0, argv
        return out.decode()

    def ping(self) -> None:
        found = self._guest.ping()
        assert (found.roots, found.frozen) == (["/"], False)

    def exec(self) -> None:
        assert "Linux" in self._output("uname", "-a")
        assert len(self._output("head", "-c", "1000000", "/dev/zero")) == 1_000_000

    def clock(self) -> None:
        self._guest.clock(time.time_ns() - 86_400 * 10**9)
        assert abs(self._guest.clock() - 86_400 * 10**9) < 60 * 10**9
        assert abs(float(self._output("date", "+%s.%N")) - time.time()) < 60

    def freeze(self) -> None:
        """A writer waits while the disk is copied; the copy is clean, and has nothing of what came after the freeze."""
        copy = self._scratch / "copy.img"
        seen: list[int] = []
        writing = threading.Event()

        def output(data: bytes) -> None:
            seen.extend(map(int, data.split()))
            writing.set()

        writer = threading.Thread(target=lambda: self._guest.exec(["sh", "-c", _WRITER], on_stdout=output))
        writer.start()
        assert writing.wait(60)
        with self._guest.frozen(30):
            subprocess.run(["cp", "--sparse=always", self._disk, copy], check=True)
            at = len(seen)
        writer.join(60)
        assert seen == list(range(1, WRITES + 1))
        checked = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        kept = subprocess.run(["debugfs", "-R", "cat /state", copy], capture_output=True, text=True).stdout
        assert at - 1 <= len(kept.split()) <= at + 1 < WRITES, "the writer did not wait"

    def thaws_itself(self) -> None:
        frozen = self._guest.frozen(1)
        frozen.__enter__()
        turn = threading.Event()
        while self._guest.ping().frozen:
            turn.wait(0.1)
        try:
            frozen.__exit__(None, None, None)
        except Conflict:
            self._output("sh", "-c", "echo after > /state")
            return
        raise AssertionError("a torn copy was not told")

    def agent(self) -> None:
        told = self._output("cowfs-guest", "checkpoint", "-m", "from inside")
        assert told == "snap-of-the-host\n"
        assert [json.loads(line)["message"] for line in self._asked] == ["from inside"]

    def trim(self) -> None:
        self._output("sh", "-c", "head -c 64000000 /dev/urandom > /big; sync /big; rm /big")
        self._guest.sync()
        assert self._guest.trim() > 60_000_000

    def hygiene(self) -> None:
        self._output("sh", "-c", "mkdir -p /etc/ssh; echo x > /etc/ssh/ssh_host_rsa_key")
        done = self._guest.hygiene(seed=os.urandom(64), machine_id=True, hostname="copy-1", ssh_host_keys=True)
        assert self._output("cat", "/etc/machine-id", "/proc/sys/kernel/hostname") == f"{done.machine_id}\ncopy-1\n"
        assert done.removed == ["/etc/ssh/ssh_host_rsa_key"]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disk", type=Path, help="a raw image with an ext4 root that has cowfs-guest; it is changed")
    parser.add_argument("--build", type=Path, default=BUILD, help="where the kernel and Debian are kept")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="kvm where the machine has it")
    options = parser.parse_args()
    if image.missing():
        print(f"missing: {', '.join(image.missing())}", file=sys.stderr)
        return 1
    options.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cowfs-vm-") as scratch:
        disk = options.disk or image.disk(options.build, Path(scratch, "disk.img"))
        with running(options.build, disk, Path(scratch), accel=options.accel) as machine:
            took = Show(machine, disk, Path(scratch)).run()
    print(json.dumps(took))
    return 0


if __name__ == "__main__":
    sys.exit(main())
