"""A process that serves one workspace through pyfuse3."""

from __future__ import annotations

import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from cowfs_daemon.fuse import mount
from tests.cli.live import Live

START_SECONDS = 30


class Foreground:
    """``live``: the store, reached through the process's own API. ``path``: where its workspace ``ws`` is mounted."""

    def __init__(self, directory: Path) -> None:
        self.live = Live(directory / "store")
        self.path = directory / "mnt"
        self.process: subprocess.Popen[bytes] | None = None
        self.live.cowfs("init")
        self.live.cowfs("create", "ws")
        self.live.cowfs("daemon", "stop")

    def start(self, *words: str) -> None:
        """Serve; returns when it says that it does."""
        words = words or ("mount", "ws", str(self.path), "--foreground", "--transport", "pyfuse3")
        self.process = subprocess.Popen(
            self.live.words(*words), env=self.live.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], START_SECONDS)[0]
        assert self.process.stdout.readline() == f"{self.path}\n".encode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; how."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(START_SECONDS)
        finally:
            self.clear()

    def clear(self) -> None:
        """Leave no process and no mount behind."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def close(self) -> None:
        """End everything, and check the store."""
        try:
            if self.process is not None:
                self.end()
        finally:
            self.clear()
            for shown in reversed(mount.mount_table()):
                if shown.path.startswith(str(self.path)):
                    with suppress(OSError):
                        mount.unmount(shown.path, force=True)
        assert self.live.cowfs("fsck", "--deep") == "clean"
