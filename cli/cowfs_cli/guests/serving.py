"""Answers what programs inside of a virtual machine ask about the workspace that holds its disk, for as long as it is
wanted: the machine may be stopped and started meanwhile.

Its filesystems are frozen for the moment of a checkpoint or fork, so that what is kept of the disk is whole. A restore
takes the disk away under a running kernel, which must not be; so a command of the host stops the machine before, and
starts it afterwards.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cowfs.client.store import Store
from cowfs.errors import Busy, Conflict, Invalid, NotFound
from cowfs_cli.agent.serve import Agent, Grant
from cowfs_cli.guests.channel import GuestChannel

FROZEN_SECONDS: Final = 30.0
HOOK_SECONDS: Final = 300.0
AGAIN_SECONDS: Final = 1.0
"""Between two attempts to reach a machine that is being started."""


class Serving:
    """Serves the workspace ``name`` to the guest that ``connect(answer)`` reaches. ``allowed``: what else than the
    harmless verbs; ``hook``: the command line that is called with ``stop`` before a restore and ``start`` after it.

    Raises Invalid when ``hook`` is no command line, NotFound when there is no such workspace.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        connect: Callable[[Callable[[bytes], bytes]], GuestChannel],
        allowed: frozenset[str],
        hook: str = "",
    ) -> None:
        self._connect = connect
        self._name = name
        self._hook = _words(hook)
        self._agent = Agent(store, name, Grant(allowed, around=self._stopped, still=self._still))
        self._channel: GuestChannel | None = None
        self._there = threading.Event()
        self._again = threading.Event()

    def run(self, connected: Callable[[], object] = lambda: None) -> None:
        """Serve until interrupted; ``connected()`` is called at each connection.

        Raises what the first connection does: NotFound, Busy, Conflict.
        """
        first = True
        while True:
            try:
                channel = self._connect(self._agent.answer)
            except (NotFound, Busy):
                if first:
                    raise
                self._again.wait(AGAIN_SECONDS)
                continue
            first = False
            with channel:
                self._channel = channel
                self._there.set()
                connected()
                channel.wait_ended()
                self._there.clear()

    @contextmanager
    def _still(self) -> Iterator[None]:
        # A request may come before the connection is known here.
        if not self._there.wait(FROZEN_SECONDS) or self._channel is None:
            raise Busy("the virtual machine has hung up", hint="Try again.")
        with self._channel.frozen(FROZEN_SECONDS):
            yield

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        if not self._hook:
            raise Conflict(
                "a restore from inside needs the host to stop and start the machine",
                hint="On the host: cowfs guest SOCKET serve WS --restore-hook CMD",
            )
        self._call("stop")
        try:
            yield
        finally:
            self._call("start")

    def _call(self, word: str) -> None:
        environment = {**os.environ, "COWFS_WORKSPACE": self._name}
        try:
            ended = subprocess.run(
                [*self._hook, word], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(),
                timeout=HOOK_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Conflict(f"the host's command to {word} the machine failed", hint=type(error).__name__) from error
        if ended.returncode:
            raise Conflict(f"the host's command to {word} the machine failed", hint=f"exit code {ended.returncode}")


def _words(hook: str) -> list[str]:
    try:
        return shlex.split(hook)
    except ValueError as error:
        raise Invalid(f"--restore-hook {hook!r}: {error}") from None
