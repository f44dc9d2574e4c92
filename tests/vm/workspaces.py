"""``python -m tests.vm.workspaces``: a machine whose disk is a cowfs disk workspace, from its making to its forks.

A Debian root becomes the disk, QEMU boots it with the words of ``cowfs disk config``, programs work inside while it is
checkpointed live through the guest's own freeze; two forks of one of those snapshots boot, and differ only in what each
of them wrote. e2fsck finds nothing to do on any snapshot, fork or restore. Prints a JSON object with the figures; exit
code 1 and a traceback when anything was wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cowfs.errors import CowfsError
from cowfs_cli.guests.channel import GuestChannel
from tests.cli.live import Live, living
from tests.disks.conftest import checked
from tests.vm import image
from tests.vm.__main__ import BUILD
from tests.vm.machine import Machine

CHECKPOINTS = 5
_WORK = "mkdir -p /w; i=0; while [ ! -e /run/stop ]; do i=$((i+1)); echo $i > /w/f$((i%50)); echo $i >> /w/log; done"


def output(guest: GuestChannel, *argv: str) -> str:
    """What a program inside that must succeed prints."""
    out = bytearray()
    done = guest.exec(argv, on_stdout=out.extend, on_stderr=sys.stderr.buffer.write)
    assert done.exit_code == 0, (argv, out)
    return out.decode()


@contextmanager
def booted(live: Live, name: str, build: Path, directory: Path) -> Iterator[Machine]:
    """The machine of the disk workspace ``name``. At the end its filesystem is frozen and the machine ended."""
    directory.mkdir()
    socket = directory / "guest.sock"
    line = live.cowfs(
        "disk", "config", name, "--machine", "qemu", "--kernel", str(image.vmlinuz(build)), "--initrd",
        str(image.initramfs(build)), "--append", "console=ttyS0 panic=-1", "--socket", str(socket),
    )  # fmt: skip
    with (directory / "console").open("wb") as console:
        words = [*shlex.split(line), "-no-reboot", "-cpu", "max", "-device", "virtio-rng-pci"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        yield Machine(directory, process)
    finally:
        with suppress(CowfsError), GuestChannel(str(socket)) as guest, guest.frozen():
            process.kill()
        process.kill()
        process.wait()


class Show:
    """The steps on one store."""

    def __init__(self, live: Live, build: Path, scratch: Path) -> None:
        self._live = live
        self._build = build
        self._scratch = scratch
        self.figures: dict[str, Any] = {}

    def run(self) -> None:
        """All of them. Raises AssertionError."""
        live = self._live
        with self._timed("create_s"):
            live.cowfs("create", "vm", "--disk", "1G", "--from", f"dir:{image.root(self._build)}")
        with booted(live, "vm", self._build, self._scratch / "vm") as machine:
            self.figures["boot_s"] = round(machine.wait_up(), 1)
            self._live_checkpoints(machine)
            self._from_inside(machine)
            self._given_back(machine)
            assert live.run("restore", "vm", "@live2").code == 5, "restored under a running machine"
            assert live.run("disk", "mount", "vm").code == 5, "attached while a machine has it"
        for number in range(CHECKPOINTS):
            checked(self._image(f"vm@live{number}"))
        self._forks()
        live.cowfs("disk", "restore", "vm", "@live1")
        checked(self._image("vm"))
        with booted(live, "vm", self._build, self._scratch / "again") as machine:
            machine.wait_up()
            with GuestChannel(str(machine.socket)) as guest:
                assert output(guest, "cat", "/number").split() == ["1"], "not the restored state"
        checked(self._image("vm"))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.figures[name] = round(time.monotonic() - began, 2)

    def _image(self, ref: str) -> str:
        return self._live.cowfs("mount", ref) + "/disk.img"

    def _live_checkpoints(self, machine: Machine) -> None:
        """Checkpoints while a program writes, each with the number that was written before it."""
        took = []
        with GuestChannel(str(machine.socket)) as guest:
            writer = threading.Thread(target=lambda: guest.exec(["sh", "-c", _WORK], timeout_seconds=600))
            writer.start()
            for number in range(CHECKPOINTS):
                output(guest, "sh", "-c", f"echo {number} > /number")  # not synced
                began = time.monotonic()
                with guest.frozen():
                    self._live.cowfs("checkpoint", "vm", "--label", f"live{number}")
                took.append(round((time.monotonic() - began) * 1000))
            output(guest, "touch", "/run/stop")
            writer.join()
        self.figures["freeze_checkpoint_thaw_ms"] = took

    def _from_inside(self, machine: Machine) -> None:
        """The agent's verbs, through `cowfs guest SOCKET serve`."""
        words = self._live.words("guest", str(machine.socket), "serve", "vm", "--allow", "restore")
        with subprocess.Popen(words, env=self._live.env, stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            assert "serving vm" in serving.stdout.readline()
            marker = "cowfs-guest checkpoint -m inside --label inside; cowfs-guest restore @inside; echo $? > /code"
            # The channel has one host at a time, so a program begun before asks.
            serving.terminate()
            assert serving.wait(30) == 0
        with GuestChannel(str(machine.socket)) as guest:
            output(guest, "sh", "-c", f"( while [ ! -e /run/go ]; do sleep 0.1; done; {marker} ) > /out 2>&1 &")
            output(guest, "touch", "/run/go")
        with subprocess.Popen(words, env=self._live.env, stdout=subprocess.PIPE, text=True) as serving:
            until = time.monotonic() + 120
            turn = threading.Event()
            while not any("inside" in each["labels"] for each in self._live.json("log", "vm")):
                assert time.monotonic() < until, "nobody asked from inside"
                turn.wait(0.2)
            turn.wait(3)  # the restore's answer
            serving.terminate()
            assert serving.wait(30) == 0
        with GuestChannel(str(machine.socket)) as guest:
            said = output(guest, "sh", "-c", "cat /out /code")
        assert "needs the host to stop and start the machine" in said, said
        assert said.split()[-1] == "4", said
        self.figures["restore_from_inside_without_a_hook"] = "exit code 4"

    def _given_back(self, machine: Machine) -> None:
        """What is deleted and trimmed inside becomes holes of the file."""
        path = self._image("vm")
        with GuestChannel(str(machine.socket)) as guest:
            output(guest, "sh", "-c", "head -c 100000000 /dev/urandom > /big; sync /big")
            before = os.stat(path).st_blocks * 512
            output(guest, "rm", "/big")
            guest.sync()
            guest.trim()
        given = before - os.stat(path).st_blocks * 512
        assert given > 90_000_000, given
        self.figures["trimmed_mb"] = round(given / 1e6)

    def _forks(self) -> None:
        """Two forks of one live snapshot boot, and differ in their own file alone."""
        live = self._live
        with self._timed("fork_two_s"):
            live.cowfs("fork", "vm@live2", "try", "--count", "2")
        trees = []
        for name in ("try-1", "try-2"):
            checked(self._image(name))
            with booted(live, name, self._build, self._scratch / name) as machine:
                machine.wait_up()
                with GuestChannel(str(machine.socket)) as guest:
                    assert output(guest, "cat", "/number").split() == ["2"]
                    output(guest, "sh", "-c", f"echo {name} > /own-{name}")
                    output(guest, "python3", "-c", "import json; json.dump([1], open('/same', 'w'))")
            checked(self._image(name))
            trees.append(contents(Path(live.cowfs("disk", "mount", name))))
        differing = {path for path in trees[0].keys() | trees[1].keys() if trees[0].get(path) != trees[1].get(path)}
        assert differing == {"own-try-1", "own-try-2"}, differing
        self.figures["files_equal_in_both_forks"] = len(trees[0].keys() & trees[1].keys())


def contents(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and digest of each file below ``root``."""
    found = {}
    for directory, folders, names in os.walk(root):
        for name in folders + names:
            path = Path(directory, name)
            about = path.lstat()
            data = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
            data = os.readlink(path).encode() if stat.S_ISLNK(about.st_mode) else data
            found[str(path.relative_to(root))] = (about.st_mode, hashlib.sha256(data).hexdigest())
    return found


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD, help="where the kernel and Debian are kept")
    options = parser.parse_args()
    if image.missing():
        print(f"missing: {', '.join(image.missing())}", file=sys.stderr)
        return 1
    options.build.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cowfs-vm-")))
        show = Show(stack.enter_context(living(scratch / "store")), options.build, scratch)
        show.run()
    print(json.dumps(show.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
