"""What programs inside of a virtual machine ask of their host: taken as they come, answered one after the other.

Rates and rights are those of whoever answers (cowfs_cli.agent.serve.Agent); here is only what keeps a
hostile guest from filling memory: a short queue, ids that only grow, lines that are no longer than a sandbox's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from cowfs.errors import CowfsError
from cowfs_cli.agent import protocol
from cowfs_cli.guests import lines

WAITING_MAX: Final = 8
PART_CHARACTERS: Final = 5 * 1024
"""Of an answer in one line: twelve times as long when each one has to be escaped."""


class Answering:
    """Calls ``answer(line)`` on a thread of its own and sends what it returns. ``asked`` and ``refused`` count."""

    def __init__(self, answer: Callable[[bytes], bytes], send: Callable[[dict[str, Any]], None]) -> None:
        self._answer = answer
        self._send = send
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING_MAX + 1)
        self._closed = threading.Event()
        self._guest = ""
        self._last = 0
        self.asked = 0
        self.refused = 0
        self._thread = threading.Thread(target=self._serve, name="cowfs-guest-agent", daemon=True)
        self._thread.start()

    def take(self, guest: str, message: dict[str, Any]) -> bool:
        """Take the request in ``message``, of the guest's session ``guest``; False when it is dropped. Never waits."""
        name, text = message.get("id"), message["agent"]
        found = lines.ID.fullmatch(name) if isinstance(name, str) else None
        if guest != self._guest:
            self._guest, self._last = guest, 0
        if found is None or found[1] != guest or int(found[2]) <= self._last or not isinstance(text, str):
            return False
        self._last = int(found[2])
        line = text.encode(errors="replace")
        if len(line) >= protocol.REQUEST_BYTES or self._queue.qsize() >= WAITING_MAX:
            self.refused += 1  # a guest that keeps to the protocol never gets here, so nobody waits for an answer
            return False
        self.asked += 1
        self._queue.put((found[0], line))
        return True

    def _serve(self) -> None:
        while (each := self._queue.get()) is not None and not self._closed.is_set():
            name, line = each
            text = self._answer(line).decode()
            parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
            with suppress(CowfsError):  # the guest is gone, and so is who has asked
                for number, part in enumerate(parts, 1):
                    self._send({"answer": name, "text": part, "more": number < len(parts)})

    def close(self) -> None:
        """Answer nothing more, and wait until what is being answered is done."""
        self._closed.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        if self._thread is not threading.current_thread():
            self._thread.join()
