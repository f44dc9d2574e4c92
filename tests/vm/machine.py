"""A virtual machine under QEMU, emulated unless told otherwise: any raw ext4 image as its disk, and a channel."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cowfs.errors import Busy, NotFound
from cowfs_cli.guests.channel import GuestChannel
from tests.vm import image

BOOT_SECONDS = 180.0


@dataclass
class Machine:
    """``socket`` is the channel's; ``console`` a file with what the kernel has said; ``directory`` its own."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.directory / "guest.sock"

    @property
    def console(self) -> str:
        with suppress(FileNotFoundError):
            return (self.directory / "console").read_text(errors="replace")
        return ""

    def wait_up(self) -> float:
        """Wait until the server inside answers; after how many seconds."""
        began = time.monotonic()
        turn = threading.Event()
        while True:
            left = BOOT_SECONDS - (time.monotonic() - began)
            assert left > 0, f"the machine does not answer: {self.console[-3000:]}"
            assert self.process.poll() is None, f"QEMU has ended: {self.console[-3000:]}"
            try:
                with GuestChannel(str(self.socket), seconds=left) as guest:
                    guest.ping()
                    return time.monotonic() - began
            except (Busy, NotFound):
                turn.wait(0.2)


@contextmanager
def running(build: Path, disk: Path, directory: Path, *, accel: str = "tcg", memory_mb: int = 512) -> Iterator[Machine]:
    """A machine whose disk is the file ``disk``, with its sockets in the existing ``directory``; killed at the end.
    ``accel``: tcg or kvm."""
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35",
        "-cpu", "host" if accel == "kvm" else "max", "-accel", accel, "-m", str(memory_mb),
        "-kernel", str(image.vmlinuz(build)), "-initrd", str(image.initramfs(build)),
        "-append", "console=ttyS0 panic=-1",
        "-chardev", f"file,id=console,path={directory / 'console'}", "-serial", "chardev:console",
        "-drive", f"file={disk},format=raw,if=none,id=disk,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-device", "virtio-rng-pci",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=guest,path={directory / 'guest.sock'},server=on,wait=off",
        "-device", "virtserialport,chardev=guest,name=com.cowfs.guest",
        "-qmp", f"unix:{directory / 'qmp.sock'},server=on,wait=off",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield Machine(directory, process)
    finally:
        process.kill()
        process.wait()
        for name in ("guest.sock", "qmp.sock"):
            with suppress(FileNotFoundError):
                (directory / name).unlink()
