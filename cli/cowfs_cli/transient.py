"""Workspaces that last no longer than the command that makes them, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from cowfs.client.store import Store, WorkspaceHandle
from cowfs.errors import NotFound

TTL_SECONDS: Final = 86_400
"""What such a workspace has as its ``ttl``, for when its watcher is killed, too. No rule takes one that is mounted."""

_WATCH: Final = 'read -r _ || exec "$@"'


@contextmanager
def transient(store: Store, name: str) -> Iterator[WorkspaceHandle]:
    """The workspace ``name``, to be made within the context. If it is there at the end, it is removed, used or not.

    A killed process cannot do that: then a watcher does, whose standard input ends with this process.
    """
    words = [sys.executable, "-P", "-m", "cowfs_cli", "rm", "--force", "--store", store.path, name]
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "sh", *words],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )  # fmt: skip
    workspace = store.workspace(name)
    with watcher:
        try:
            yield workspace
        finally:
            with suppress(NotFound):
                workspace.remove(force=True)
            watcher.communicate(b"\n")


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit within the context, so that what was begun is tidied up."""
    handlers = {
        number: signal.signal(number, _end)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
