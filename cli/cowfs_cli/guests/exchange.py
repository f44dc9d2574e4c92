"""Requests to a guest and their answers over one stream, whatever the guest does: the host's half of the protocol.

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cowfs.errors import Busy, Conflict, CowfsError
from cowfs_cli.guests import lines
from cowfs_cli.guests.answering import Answering

HELLO_SECONDS: Final = 0.5
"""Between two hellos: a guest that was just starting may have lost the first."""

ANSWER_SECONDS: Final = 30.0
SEND_SECONDS: Final = 10.0
"""For the guest to take what is sent to it."""


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


class Exchange:
    """Talks to the guest at the other end of ``sock``, which is the exchange's own from now on.

    ``answer(line)`` is called, on a thread of its own, for what programs inside ask. Raises Busy when no guest answers
    within ``seconds``, Conflict when it is of another version.
    """

    def __init__(self, sock: socket.socket, answer: Callable[[bytes], bytes] | None, seconds: float) -> None:
        self._session = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._number = 0
        self._guest = ""
        self.capabilities: list[str] = []
        self._greeted = threading.Event()
        self._wrong: CowfsError | None = None
        self.ended = threading.Event()
        self._stale = 0
        self._reader = lines.Reader()
        self._sock = sock
        self._answering = None if answer is None else Answering(answer, self._send)
        self._thread = threading.Thread(target=self._read, name="cowfs-guest", daemon=True)
        self._thread.start()
        try:
            self._greet(seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up. What is pending fails, Busy; the guest stops what this session has begun."""
        with suppress(CowfsError):  # a serial line does not tell the guest
            self._send({"bye": self._session})
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()
        if self._answering is not None:
            self._answering.close()

    def statistics(self) -> Statistics:
        """What came so far."""
        asked, refused = (0, 0) if self._answering is None else (self._answering.asked, self._answering.refused)
        return Statistics(self._reader.dropped, self._stale, asked, refused)

    # Requests and their answers.

    def ask(self, verb: str, fields: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The answer to a request. Raises what the guest says, or Busy when it says nothing within ``seconds``."""
        name, pending = self._begin(verb, False, fields)
        try:
            _, value = self._next(pending, time.monotonic() + seconds, verb)
        finally:
            self._forget(name)
        answer: dict[str, Any] = value
        return answer

    def run(
        self, fields: dict[str, Any], taken: Mapping[str, Callable[[bytes], object]], seconds: float
    ) -> dict[str, Any]:
        """Ask for ``exec``; its answer. Output goes to ``taken``, by the stream's name, on this thread."""
        name, pending = self._begin("exec", True, fields)
        until = time.monotonic() + seconds
        try:
            while True:
                kind, value = self._next(pending, until, "exec")
                if kind == "ok":
                    answer: dict[str, Any] = value
                    return answer
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

    def _begin(self, verb: str, output: bool, fields: dict[str, Any]) -> tuple[str, _Pending]:
        pending = _Pending(output)
        with self._sending:  # numbers go out in their order
            with self._lock:
                if self.ended.is_set():
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
        """Write a line; ``_sending`` is held. A guest that takes nothing is given up: half a line stays half a line."""
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
            if self.ended.is_set():
                raise _gone()
            if time.monotonic() >= until:
                raise Busy(
                    "no guest answers",
                    hint="Inside: cowfs-guest serve. A virtio-serial port is for one program at a time.",
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
            self.ended.set()
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
                        hint="Put this version's inside: see docs/microvms.md.",
                    )
                self.capabilities = lines.texts(message, "capabilities")
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
