"""The real daemon on a store of its own, for the scenarios that measure from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import common, trees
from cowfs import connect
from cowfs.client.launch import wait_stopped
from cowfs.client.store import Store

SETTLE_SECONDS = 60.0


@contextmanager
def serving(store: Path, cpus: Sequence[int] | None = None, python: Path | None = None) -> Iterator[Store]:
    """A daemon that serves ``store``, all of it on ``cpus``; stopped afterwards, its mounts detached.

    ``python``: of another environment, whose cowfs is to serve.
    """
    with common.placed(cpus):
        if python is not None:
            own = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
            common.run(python, "-P", "-m", "cowfs_cli", "daemon", "start", "--store", store, env=own)
        client = connect(store)
    try:
        yield client
    finally:
        stop(client)


@contextmanager
def foreground(store: Path, workspace: str, path: Path, cpus: Sequence[int] | None) -> Iterator[None]:
    """``workspace`` mounted at ``path`` through pyfuse3, by a process on ``cpus``."""
    words = [sys.executable, "-P", "-m", "cowfs_cli", "mount", workspace, str(path), "--foreground"]
    with (
        common.placed(cpus),
        subprocess.Popen(
            [*words, "--transport", "pyfuse3", "--store", str(store)], stdout=subprocess.PIPE, env=common.environment()
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline(), "pyfuse3 does not serve"
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def stop(client: Store) -> None:
    """Stop the daemon and wait for its end."""
    supervisor = int(client.daemon()["supervisor"]["pid"])
    wait_stopped(supervisor, lambda: client.stop_daemon(force=True))
    client.close()


def make_store(path: Path, sizes: list[int]) -> None:
    """A store with a synthetic workspace ``nSIZE`` for each of ``sizes``, and nobody serving it."""
    with common.engine_at(path) as engine:
        for files in sizes:
            trees.synthetic_workspace(engine, f"n{files}", files)


def pids(client: Store) -> list[int]:
    """The processes of the daemon that stay: supervisor and workers."""
    status = client.daemon()
    return [int(status["supervisor"]["pid"]), *(int(worker["pid"]) for worker in status["workers"])]


def settled(client: Store) -> None:
    """Wait until nothing is left to settle. Raises TimeoutError."""
    until = time.monotonic() + SETTLE_SECONDS
    while client.daemon()["queues"]["settle"]:
        if time.monotonic() > until:
            raise TimeoutError("the settler does not come to an end")
        time.sleep(0.02)


def overwrite(root: Path, paths: list[str], turn: int) -> None:
    """Write 4 KiB into each file, through the mount."""
    for index, path in enumerate(paths):
        fd = os.open(root / path, os.O_WRONLY)
        try:
            os.write(fd, (b"%d %d " % (turn, index)).ljust(4096, b"x"))
        finally:
            os.close(fd)


def hold_open(root: Path, paths: list[str]) -> list[int]:
    """Open each file for writing; the descriptors."""
    return [os.open(root / path, os.O_RDWR) for path in paths]
