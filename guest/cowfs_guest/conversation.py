"""One host, one stream: its requests are carried out, and what programs inside ask is passed on to it.

The host says hello with a session id of its own choice; a new one ends everything that the session before had asked
for. Its requests are numbered within the session, ``SESSION-NUMBER``, ever higher, so what is stale, or comes twice, is
known. Requests to the host carry ids of the same kind, of this side's session. docs/microvms.md has every message.
"""

from __future__ import annotations

import queue
import re
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cowfs_guest import Refused
from cowfs_guest.running import WINDOW_BYTES, Run
from cowfs_guest.verbs import VERBS, Fields
from cowfs_guest.wire import Link

if TYPE_CHECKING:
    from cowfs_guest.serve import Server

VERSION = 1
WORKING_MAX = 16
"""Requests of one host at a time."""

ASKING_MAX = 8
ANSWER_CHARACTERS = 8 << 20
ANSWER_SECONDS = 600.0

_SESSION = re.compile(r"[0-9a-f]{16}")
_ID = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,15})")


class Conversation:
    """Serves ``link`` until it ends. :meth:`serve` is called by one thread, :meth:`ask` by any."""

    def __init__(self, server: Server, link: Link) -> None:
        self._server = server
        self._link = link
        self._own = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._host = ""
        self._last = 0
        self._answers = False
        self._working = 0
        self._runs: dict[str, Run | None] = {}  # None: not started yet, or not to be started any more
        self._asked = 0
        self._pending: dict[str, queue.SimpleQueue[tuple[str, bool] | None]] = {}

    def announce(self) -> None:
        """Tell a host that was there before that this side began anew. Blocks while there is none."""
        with suppress(OSError):
            self._link.send(self._hello(""), fresh=True)

    def serve(self) -> None:
        """Take messages until the stream ends."""
        try:
            with suppress(OSError):  # an answer that nobody takes any more
                for message in self._link.messages():
                    self._take(message)
        finally:
            self._reset("")

    def _hello(self, of: str) -> dict[str, Any]:
        return {"hello": self._own, "of": of, "version": VERSION, "capabilities": sorted(VERBS)}

    def _take(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            host = message["hello"]
            if isinstance(host, str) and _SESSION.fullmatch(host):
                if host != self._host:
                    self._reset(host)
                self._answers = message.get("agent") is True
                self._link.send(self._hello(host), fresh=True)
        elif "bye" in message:
            if message["bye"] == self._host:
                self._reset("")
        elif "answer" in message:
            self._answered(message)
        elif "ack" in message or "cancel" in message:
            self._steer(message)
        elif "do" in message:
            self._request(message)

    def _reset(self, host: str) -> None:
        """Forget what the session before wanted, and begin that of ``host``."""
        with self._lock:
            self._host, self._last, self._answers = host, 0, False
            runs, self._runs = self._runs, {}
            pending, self._pending = self._pending, {}
        for run in filter(None, runs.values()):
            run.cancel()
        for each in pending.values():
            each.put(None)

    def _steer(self, message: dict[str, Any]) -> None:
        name = message.get("ack", message.get("cancel"))
        with self._lock:
            run = self._runs.get(name) if isinstance(name, str) else None
            if run is None and "cancel" in message and isinstance(name, str):
                self._runs.pop(name, None)
        count = message.get("bytes")
        if run is not None and "cancel" in message:
            run.cancel()
        elif run is not None and type(count) is int and 0 < count <= WINDOW_BYTES:
            run.acknowledge(count)

    def _request(self, message: dict[str, Any]) -> None:
        name, verb = message.pop("id", None), message.pop("do")
        found = _ID.fullmatch(name) if isinstance(name, str) else None
        if found is None or found[1] != self._host:
            return  # another session's: nobody waits for the answer
        number = int(found[2])
        try:
            if number <= self._last:
                raise Refused("conflict", f"the number {number} was used already")
            self._last = number
            if not isinstance(verb, str) or verb not in VERBS:
                raise Refused("invalid", f"no such request; there are: {', '.join(sorted(VERBS))}")
            with self._lock:
                if self._working >= WORKING_MAX:
                    raise Refused("busy", f"{WORKING_MAX} requests are being carried out", "Wait for one of them.")
                self._working += 1
                if verb == "exec":
                    self._runs[name] = None
        except Refused as error:
            self._refuse(name, error)
            return
        threading.Thread(target=self._work, args=(name, verb, message), daemon=True).start()

    def _work(self, name: str, verb: str, given: dict[str, Any]) -> None:
        try:
            done = self.run(name, given) if verb == "exec" else VERBS[verb](self._server, Fields(given))
            self._tell(name, {"id": name, "ok": done})
        except Refused as error:
            self._refuse(name, error)
        except Exception as error:
            self._refuse(name, Refused("internal", f"the guest failed: {type(error).__name__}: {error}"))
        finally:
            with self._lock:
                self._working -= 1

    def run(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Run a program to its end."""
        try:
            program: Run = VERBS["exec"](self._server, Fields(given))
            with self._lock:
                if name in self._runs:
                    self._runs[name] = program
                else:  # it was cancelled, or its session has ended, meanwhile
                    program.cancel()
            return program.pump(lambda stream, data: self._tell(name, {"id": name, "stream": stream, "data_b64": data}))
        finally:
            with self._lock:
                self._runs.pop(name, None)

    def _tell(self, name: str, message: dict[str, Any]) -> None:
        """Send what belongs to the request ``name``, if its session is still the host's. A stream that has ended is
        noticed by who reads it."""
        if self._host and name.startswith(self._host):
            with suppress(OSError):
                self._link.send(message)

    def _refuse(self, name: str, error: Refused) -> None:
        shape = {"code": error.code, "message": error.message[:1000], "hint": error.hint}
        self._tell(name, {"id": name, "error": shape})

    @property
    def answers(self) -> bool:
        """Whether the host answers what programs inside ask."""
        return self._answers

    def ask(self, line: str) -> str:
        """The host's answer to a program's request. Raises Refused."""
        came: queue.SimpleQueue[tuple[str, bool] | None] = queue.SimpleQueue()
        with self._lock:
            if not self._answers or len(self._pending) >= ASKING_MAX:
                raise Refused("busy", "the host has no time for requests from inside", "Try again later.")
            self._asked += 1
            name = f"{self._own}-{self._asked}"
            self._pending[name] = came
        try:
            with suppress(OSError):  # then the session is over, and that is told
                self._link.send({"id": name, "agent": line})
            return _whole(came)
        finally:
            with self._lock:
                self._pending.pop(name, None)

    def _answered(self, message: dict[str, Any]) -> None:
        name, text, more = message["answer"], message.get("text"), message.get("more", False)
        with self._lock:
            came = self._pending.get(name) if isinstance(name, str) else None
        if came is not None and isinstance(text, str) and isinstance(more, bool):
            came.put((text, more))


def _whole(came: queue.SimpleQueue[tuple[str, bool] | None]) -> str:
    parts: list[str] = []
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            part = came.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            raise Refused("busy", "the host gave no answer", "It may have been carried out: see `log`.") from None
        if part is None:
            raise Refused("busy", "the host went away", "It may have been carried out: see `log`.")
        parts.append(part[0])
        if sum(map(len, parts)) > ANSWER_CHARACTERS:
            raise Refused("invalid", "the answer is too long")
        if not part[1]:
            return "".join(parts).rstrip("\n")
