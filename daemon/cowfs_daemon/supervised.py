"""What a supervisor has of its keeper: the socket, and signs of life. Without a keeper, nothing is kept or said."""

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

from cowfs.errors import Conflict
from cowfs_daemon.keeper import BEAT_SECONDS, die_with_parent
from cowfs_daemon.packets import PROTOCOL, receive, send

RENEW_SECONDS = 60.0


class Supervised:
    """``descriptor``: of the keeper's socket. ``fd_stored``: a service manager keeps the mounts when the keeper dies.

    Raises Conflict for a keeper that speaks another protocol. After :meth:`begin`, a keeper that ends takes this
    process along: by SIGTERM, so that it unmounts; when the mounts are kept elsewhere, by SIGKILL, so that it does not.
    """

    def __init__(self, descriptor: int | None = None, protocol: int | None = PROTOCOL, fd_stored: bool = False) -> None:
        self.descriptor = descriptor
        self._sock: socket.socket | None = None
        self._end_signal = signal.SIGTERM
        self._by_hand = threading.Event()
        if descriptor is None:
            return
        if protocol != PROTOCOL:
            raise Conflict(
                f"the keeper that runs speaks protocol {protocol}, this version {PROTOCOL}",
                hint="cowfs daemon stop --force; then start it again",
            )
        self._sock = socket.socket(fileno=os.dup(descriptor))
        self._end_signal = signal.SIGKILL if fd_stored else signal.SIGTERM

    def begin(self) -> None:
        """From now on, end with the keeper, and show life."""
        if self._sock is not None:
            die_with_parent(self._end_signal)
            threading.Thread(target=self._beat_while_busy, name="cowfs-beat", daemon=True).start()

    def beat(self) -> None:
        """Show life; from the first call on, until :meth:`ending`, the caller alone does."""
        self._by_hand.set()
        self._say({"op": "beat"})

    def ready(self) -> None:
        """The API answers."""
        self._say({"op": "ready"})

    def serving_ends(self, *, stopping: bool) -> None:
        """The API answers no more; ``stopping``: no other supervisor is wanted. Life is shown by a thread again."""
        self._by_hand.clear()
        if stopping:
            self._say({"op": "ending"}, 0)

    def renew(self) -> dict[str, Any]:
        """Have the keeper go on as the installed code: its pid and version. Raises Conflict when it cannot."""
        if self._sock is None:
            raise Conflict("there is no keeper", hint="cowfs daemon start")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                send(self._sock, {"op": "renew"}, theirs.fileno())
            ours.settimeout(RENEW_SECONDS)
            try:
                answer, _ = receive(ours)
            except TimeoutError:
                answer = None
        if answer is None or "error" in answer:
            told = answer or {"error": "the keeper does not answer", "hint": ""}
            raise Conflict(str(told["error"]), hint=str(told.get("hint", "")))
        return answer

    def _say(self, message: dict[str, Any], flags: int = socket.MSG_DONTWAIT) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it is gone, or has much to read already
                send(self._sock, message, flags=flags)

    def _beat_while_busy(self) -> None:
        while True:
            if not self._by_hand.is_set():
                self._say({"op": "beat"})
            time.sleep(BEAT_SECONDS)
