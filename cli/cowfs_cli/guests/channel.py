"""The channel from a host to the server inside of a virtual machine (``cowfs-guest serve``).

with GuestChannel("vm-1.sock") as guest, guest.frozen():
    ...                                      # copy, fork or checkpoint its disk
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from cowfs.errors import Conflict, CowfsError
from cowfs_cli.guests import lines
from cowfs_cli.guests.connecting import connected
from cowfs_cli.guests.exchange import ANSWER_SECONDS, Exchange, Statistics

FLUSH_SECONDS: Final = 300.0
"""For what first writes everything that is dirty inside."""


@dataclass(frozen=True)
class Guest:
    """What answers inside: ``capabilities`` are the requests that it knows, ``roots`` what it freezes."""

    python: str
    frozen: bool
    roots: list[str]
    capabilities: list[str]


@dataclass(frozen=True)
class Ran:
    """How a program ended: 128 and more is a signal."""

    exit_code: int
    timed_out: bool


@dataclass(frozen=True)
class Cleaned:
    """What :meth:`GuestChannel.hygiene` did: new ``machine_id`` and ``hostname``, ``removed`` keys, bytes of ``seed``;
    empty and 0: not asked for."""

    machine_id: str
    hostname: str
    removed: list[str]
    seed: int


class GuestChannel:
    """The guest behind the Unix socket ``path``: of QEMU's ``-chardev socket``, or with ``vsock_port`` of Firecracker.

    ``answer(line)`` is called, on a thread of its own, for what programs inside ask. Raises NotFound when nobody
    listens, Busy when no guest answers within ``seconds``, Conflict when it is of another version. What is asked of the
    guest raises what it says, or Busy when it says nothing. Any thread may ask.
    """

    def __init__(
        self,
        path: str,
        *,
        vsock_port: int | None = None,
        answer: Callable[[bytes], bytes] | None = None,
        seconds: float = 10.0,
    ) -> None:
        self._exchange = Exchange(connected(path, vsock_port, seconds), answer, seconds)

    def __enter__(self) -> GuestChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. What is pending fails, Busy; the guest stops what this session has begun."""
        self._exchange.close()

    def wait_ended(self, seconds: float | None = None) -> bool:
        """Wait until the other side has hung up; False when it has not."""
        return self._exchange.ended.wait(seconds)

    def statistics(self) -> Statistics:
        """What came so far."""
        return self._exchange.statistics()

    def ping(self) -> Guest:
        """Who answers."""
        done = self._exchange.ask("ping", {})
        return Guest(
            lines.text(done, "python", 64),
            lines.flag(done, "frozen"),
            lines.texts(done, "roots"),
            self._exchange.capabilities,
        )

    def freeze(self, seconds: float = 10.0) -> None:
        """Let nobody write to its filesystems, for ``seconds`` at most. Raises Conflict when they are frozen."""
        self._exchange.ask("freeze", {"seconds": seconds}, FLUSH_SECONDS)

    def thaw(self) -> float:
        """Let them write again; for how many seconds they could not. Raises Conflict when nothing is frozen."""
        return lines.number(self._exchange.ask("thaw", {}), "frozen_seconds")

    @contextmanager
    def frozen(self, seconds: float = 10.0) -> Iterator[None]:
        """Frozen inside the context, and thawed after it, whatever happens.

        Raises Conflict at the end when ``seconds`` were not enough: what was copied of the disk is no one moment then.
        """
        try:
            self.freeze(seconds)
        except Conflict:
            raise  # somebody else's freeze stays as it is
        except BaseException:
            with suppress(CowfsError):
                self.thaw()
            raise
        try:
            yield
        except BaseException:
            with suppress(CowfsError):
                self.thaw()
            raise
        self.thaw()

    def sync(self) -> None:
        """Write everything dirty to its disks."""
        self._exchange.ask("sync", {}, FLUSH_SECONDS)

    def trim(self) -> int:
        """Tell its disks what is free; how many bytes that is. Raises Invalid when a disk takes no discards."""
        return lines.whole(self._exchange.ask("trim", {}, FLUSH_SECONDS), "trimmed_bytes")

    def clock(self, time_ns: int | None = None) -> int:
        """Set its clock to ``time_ns`` after 1970, or to this machine's; by how many ns it went on."""
        done = self._exchange.ask("clock", {"time_ns": time.time_ns() if time_ns is None else time_ns})
        return lines.whole(done, "step_ns", -(2**63))

    def hygiene(
        self, *, seed: bytes = b"", machine_id: bool = False, hostname: str = "", ssh_host_keys: bool = False
    ) -> Cleaned:
        """Make it another machine than the one it is a copy of; each only when asked: ``seed`` are secret bytes for its
        random numbers, ``ssh_host_keys`` are removed. Raises Invalid."""
        asked = {"machine_id": machine_id, "hostname": hostname, "ssh_host_keys": ssh_host_keys}
        done = self._exchange.ask("hygiene", {"seed_b64": base64.b64encode(seed).decode(), **asked})
        empty = {"machine_id": "", "hostname": "", "removed": [], "seed": 0} | done
        return Cleaned(
            lines.text(empty, "machine_id", 64),
            lines.text(empty, "hostname", 64),
            lines.texts(empty, "removed"),
            lines.whole(empty, "seed", most=4096),
        )

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: str = "",
        timeout_seconds: float = 600.0,
        on_stdout: Callable[[bytes], object] | None = None,
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> Ran:
        """Run a program inside, as root; its output goes to the callbacks, on this thread, as it comes.

        A slow callback makes the program wait. An exception of one (KeyboardInterrupt too) kills the program and is
        raised. Raises NotFound when there is no such program, Busy while the filesystems are frozen.
        """
        taken: dict[str, Callable[[bytes], object]] = {
            "stdout": on_stdout or (lambda _: None),
            "stderr": on_stderr or (lambda _: None),
        }
        fields = {
            "argv": list(argv), "env": dict(env or {}), "cwd": cwd, "stdin": stdin, "timeout_seconds": timeout_seconds,
        }  # fmt: skip
        done = self._exchange.run(fields, taken, timeout_seconds + ANSWER_SECONDS)
        return Ran(lines.whole(done, "exit_code", 0, 255), lines.flag(done, "timed_out"))
