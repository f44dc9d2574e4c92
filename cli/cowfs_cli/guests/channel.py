"""The channel from a host to the server inside of a virtual machine (``cowfs-guest serve``).

    with GuestChannel("vm-1.sock") as guest, guest.frozen():
        ...                                      # copy, fork or checkpoint its disk

Threads: one reads what the guest sends, and never waits for anything but the socket: no answer, no callback, no other
lock than ``_lock``, which guards what is pending and is never held while sending. Any thread may ask. Everything a
guest sends is bounded and checked; what belongs to nothing that is pending is dropped.
"""

from __future__ import annotations

import base64
import binascii
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from cowfs.errors import Busy, Conflict, CowfsError
from cowfs_cli.guests import lines
from cowfs_cli.guests.answering import Answering
from cowfs_cli.guests.connecting import connected

HELLO_SECONDS: Final = 0.5
"""Between two hellos: a guest that was just starting may have lost the first."""

ANSWER_SECONDS: Final = 30.0
FLUSH_SECONDS: Final = 300.0
"""For what first writes everything that is dirty inside."""

SEND_SECONDS: Final = 10.0
"""For the guest to take what is sent to it."""


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
    """What :meth:`GuestChannel.hygiene` did: the new ``machine_id`` and ``hostname``, ``removed`` keys, bytes of ``seed``;
    empty and 0: not asked for."""

    machine_id: str
    hostname: str
    removed: list[str]
    seed: int


@dataclass(frozen=True)
class Statistics:
    """Of a channel: lines ``dropped`` as nonsense, messages ``stale`` or for nobody, ``asked`` and ``refused`` requests
    from inside."""

    dropped: int
    stale: int
    asked: int
    refused: int


_Event = tuple[str, Any]


class _Pending:
    """A request that waits for its answer; one that runs a program gets output before."""

    def __init__(self, output: bool) -> None:
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.output = output
        self.window = lines.WINDOW_BYTES


class GuestChannel:
    """The guest behind the Unix socket ``path``: of QEMU's ``-chardev socket``, or with ``vsock_port`` of Firecracker.

    ``answer(line)`` is called, on a thread of its own, for what programs inside ask. Raises NotFound when nobody
    listens, Busy when no guest answers within ``seconds``, Conflict when it is of another version.
    """

    def __init__(
        self,
        path: str,
        *,
        vsock_port: int | None = None,
        answer: Callable[[bytes], bytes] | None = None,
        seconds: float = 10.0,
    ) -> None:
        self._session = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._number = 0
        self._guest = ""
        self._capabilities: list[str] = []
        self._greeted = threading.Event()
        self._wrong: CowfsError | None = None
        self._ended = threading.Event()
        self._stale = 0
        self._reader = lines.Reader()
        self._sock = connected(path, vsock_port, seconds)
        self._answering = None if answer is None else Answering(answer, self._send)
        self._thread = threading.Thread(target=self._read, name="cowfs-guest", daemon=True)
        self._thread.start()
        try:
            self._greet(seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> GuestChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. What is pending fails, Busy; the guest stops what this session has begun."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()
        if self._answering is not None:
            self._answering.close()

    def wait_ended(self, seconds: float | None = None) -> bool:
        """Wait until the other side has hung up; False when it has not."""
        return self._ended.wait(seconds)

    def statistics(self) -> Statistics:
        """What came so far."""
        asked, refused = (0, 0) if self._answering is None else (self._answering.asked, self._answering.refused)
        return Statistics(self._reader.dropped, self._stale, asked, refused)

    # What is asked of the guest. All raise what the guest says, or Busy when it says nothing.

    def ping(self) -> Guest:
        """Who answers."""
        done = self._ask("ping")
        return Guest(
            lines.text(done, "python", 64), lines.flag(done, "frozen"), lines.texts(done, "roots"), self._capabilities
        )

    def freeze(self, seconds: float = 10.0) -> None:
        """Let nobody write to its filesystems, for ``seconds`` at most. Raises Conflict when they are frozen."""
        self._ask("freeze", FLUSH_SECONDS, seconds=seconds)

    def thaw(self) -> float:
        """Let them write again; for how many seconds they could not. Raises Conflict when nothing is frozen."""
        return lines.number(self._ask("thaw"), "frozen_seconds")

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
        self._ask("sync", FLUSH_SECONDS)

    def trim(self) -> int:
        """Tell its disks what is free; how many bytes that is. Raises Invalid when a disk takes no discards."""
        return lines.whole(self._ask("trim", FLUSH_SECONDS), "trimmed_bytes")

    def clock(self, time_ns: int | None = None) -> int:
        """Set its clock to ``time_ns`` after 1970, or to this machine's; by how many ns it went on."""
        done = self._ask("clock", time_ns=time.time_ns() if time_ns is None else time_ns)
        return lines.whole(done, "step_ns", -(2**63))

    def hygiene(
        self, *, seed: bytes = b"", machine_id: bool = False, hostname: str = "", ssh_host_keys: bool = False
    ) -> Cleaned:
        """Make it another machine than the one it is a copy of; each only when asked: ``seed`` are secret bytes for its
        random numbers, ``ssh_host_keys`` are removed. Raises Invalid."""
        asked = {"machine_id": machine_id, "hostname": hostname, "ssh_host_keys": ssh_host_keys}
        done = self._ask("hygiene", seed_b64=base64.b64encode(seed).decode(), **asked)
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
        fields = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "stdin": stdin}
        name, pending = self._begin("exec", True, {**fields, "timeout_seconds": timeout_seconds})
        until = time.monotonic() + timeout_seconds + ANSWER_SECONDS
        try:
            while True:
                kind, value = self._next(pending, until, "exec")
                if kind == "ok":
                    return Ran(lines.whole(value, "exit_code", 0, 255), lines.flag(value, "timed_out"))
                taken[kind](value)
                with self._lock:
                    pending.window += len(value)
                self._send({"ack": name, "bytes": len(value)})
        except BaseException:
            with suppress(CowfsError):
                self._send({"cancel": name})
            raise
        finally:
            self._forget(name)

    # Requests and their answers.

    def _ask(self, verb: str, seconds: float = ANSWER_SECONDS, **fields: object) -> dict[str, Any]:
        name, pending = self._begin(verb, False, fields)
        try:
            _, value = self._next(pending, time.monotonic() + seconds, verb)
        finally:
            self._forget(name)
        answer: dict[str, Any] = value
        return answer

    def _begin(self, verb: str, output: bool, fields: dict[str, Any]) -> tuple[str, _Pending]:
        pending = _Pending(output)
        with self._sending:  # numbers go out in their order
            with self._lock:
                if self._ended.is_set():
                    raise _gone()
                self._number += 1
                name = f"{self._session}-{self._number}"
                self._pending[name] = pending
            try:
                self._write(lines.encoded({"id": name, "do": verb, **fields}))
            except BaseException:
                self._forget(name)
                raise
        return name, pending

    def _forget(self, name: str) -> None:
        with self._lock:
            self._pending.pop(name, None)

    @staticmethod
    def _next(pending: _Pending, until: float, verb: str) -> _Event:
        try:
            kind, value = pending.events.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            raise Busy(
                f"the guest did not answer to {verb} in time", hint="Is it running? cowfs guest … ping"
            ) from None
        if kind == "error":
            raise value
        return kind, value

    def _send(self, message: dict[str, Any]) -> None:
        line = lines.encoded(message)
        with self._sending:
            self._write(line)

    def _write(self, line: bytes) -> None:
        """Write a line; ``_sending`` is held. A guest that takes nothing is given up: half a line cannot be taken back."""
        left = memoryview(line)
        until = time.monotonic() + SEND_SECONDS
        try:
            while left:
                self._sock.settimeout(max(until - time.monotonic(), 0.001))
                left = left[self._sock.send(left) :]
        except OSError:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            raise _gone() from None

    def _greet(self, seconds: float) -> None:
        """Say hello until the guest does."""
        until = time.monotonic() + seconds
        while not self._greeted.is_set():
            if self._ended.is_set():
                raise _gone()
            if time.monotonic() >= until:
                raise Busy(
                    "no guest answers",
                    hint="Inside: cowfs-guest serve. On a virtio-serial port, one program at a time can use the channel.",
                )
            self._hello()
            self._greeted.wait(HELLO_SECONDS)
        if self._wrong is not None:
            raise self._wrong

    def _hello(self) -> None:
        with self._sending:  # the empty line ends what a predecessor may have left half said
            self._write(b"\n" + lines.encoded({"hello": self._session, "agent": self._answering is not None}))

    # What comes; all of this is the reading thread's.

    def _read(self) -> None:
        try:
            while piece := self._receive():
                for message in self._reader.feed(piece):
                    self._take(message)
        except CowfsError:
            pass  # it takes nothing any more: as good as gone
        finally:
            self._ended.set()
            self._fail_all(_gone())

    def _receive(self) -> bytes:
        while True:
            try:
                return self._sock.recv(65536)
            except TimeoutError:
                continue  # the timeout is for sending
            except OSError:
                return b""

    def _fail_all(self, error: CowfsError) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for each in pending.values():
            each.events.put(("error", error))

    def _take(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self._greeted_by(message)
        elif "agent" in message:
            if self._answering is None or not self._answering.take(self._guest, message):
                self._stale += 1
        elif not self._answered(message):
            self._stale += 1

    def _greeted_by(self, message: dict[str, Any]) -> None:
        guest, of = message["hello"], message.get("of")
        if not isinstance(guest, str) or not lines.SESSION.fullmatch(guest):
            return
        if of == self._session:
            if self._guest and guest != self._guest:
                self._fail_all(Busy("the server inside was started anew", hint="Try again."))
            self._guest = guest
            try:
                if message.get("version") != lines.VERSION:
                    raise Conflict(
                        "the guest's cowfs-guest is of another version",
                        hint="Put this version's inside: cowfs guest --help says how.",
                    )
                self._capabilities = lines.texts(message, "capabilities")
            except CowfsError as error:
                self._wrong = error
            self._greeted.set()
        elif of == "" and self._greeted.is_set() and guest != self._guest:
            self._guest = guest
            self._fail_all(Busy("the server inside was started anew", hint="Try again."))
            self._hello()

    def _answered(self, message: dict[str, Any]) -> bool:
        """Hand an answer, or output, to who waits for it; False when nobody does."""
        name = message.get("id")
        with self._lock:
            pending = self._pending.get(name) if isinstance(name, str) else None
            if pending is None or not isinstance(name, str):
                return False
            event = self._event(pending, message)
            if event is None:
                return False
            if event[0] in ("ok", "error"):
                del self._pending[name]
        pending.events.put(event)
        return True

    @staticmethod
    def _event(pending: _Pending, message: dict[str, Any]) -> _Event | None:
        if "ok" in message:
            if isinstance(message["ok"], dict):
                return "ok", message["ok"]
            return "error", lines.misbehaving("an answer without a shape")
        if "error" in message:
            return "error", lines.failure(message["error"])
        if not pending.output or message.get("stream") not in ("stdout", "stderr"):
            return None
        try:
            data = base64.b64decode(message["data_b64"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return "error", lines.misbehaving("output that is no base64")
        pending.window -= len(data)
        if not data or pending.window < 0:
            return "error", lines.misbehaving("more output than it was told to send")
        return message["stream"], data


def _gone() -> Busy:
    return Busy("the guest has hung up", hint="Is the virtual machine running?")
