"""The verbs of cowfs from inside of a sandbox, for the workspace that it runs in.

    from cowfs_guest import checkpoint, restore

    checkpoint("before the risky edit", label="good")
    restore("@good")

Standard library only, Python 3.9 or newer. What is allowed is the host's choice; refusals are :class:`Refused`.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

SOCKET = "/run/cowfs/agent.sock"
TIMEOUT_SECONDS = 600.0
_ANSWER_BYTES = 8 << 20

__all__ = ["Refused", "checkpoint", "diff", "fork", "log", "ping", "restore"]


class Refused(Exception):
    """What was asked for did not happen. ``code``: invalid, not_found, conflict, busy, no_space, …"""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint


def call(verb: str, **fields: str | None) -> Any:
    """Ask the host. Raises Refused; OSError when nobody answers."""
    request = {"verb": verb, **{name: text for name, text in fields.items() if text is not None}}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(os.environ.get("COWFS_AGENT", SOCKET))
        sock.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            piece = sock.recv(65536)
            if not piece or len(data) > _ANSWER_BYTES:
                raise OSError("the host gave no answer")
            data += piece
    answer = json.loads(data)
    if "error" in answer:
        raise Refused(**answer["error"])
    return answer["ok"]


def ping() -> dict[str, Any]:
    """``workspace`` and the ``verbs`` that are allowed."""
    return dict(call("ping"))


def checkpoint(message: str = "", label: str | None = None) -> str:
    """Keep every file as it is now; the snapshot's id. One without a label is removed some time after newer ones."""
    return str(call("checkpoint", message=message, label=label)["snapshot"])


def restore(ref: str = "@latest") -> dict[str, Any]:
    """Make every file what it was in a snapshot (``@LABEL``, ``@latest``, ``@-2``, an id), this program going on.

    ``undo`` in the result is a snapshot of the state before. Files that are open go on with the restored content; those
    that are gone give ESTALE. Programs that keep content in their own memory do not notice: restart them.
    """
    return dict(call("restore", ref=ref))


def log() -> list[dict[str, Any]]:
    """The snapshots of this workspace, newest first."""
    return list(call("log"))


def diff(a: str = "@latest", b: str = "") -> list[dict[str, str]]:
    """``change`` and ``path`` of what differs between a snapshot and another, or now."""
    return list(call("diff", a=a, b=b)["changes"])


def fork(name: str, ref: str = "") -> str:
    """A new workspace, from a snapshot or from now; its name on the host."""
    return str(call("fork", name=name, ref=ref)["workspace"])
