"""Packets between the keeper and those it keeps for: a JSON object of at most 8 KiB, and at most one descriptor.

They go over a SOCK_SEQPACKET pair, whose other end is inherited by every supervisor and worker. Answers go to a socket
that comes with the question, since many share the pair. Standard library only.

    {"op": "keep", "key", "fields"} + fd    remember a mount; ``fields`` is the worker's business
    {"op": "drop", "key"}                   forget it
    {"op": "get", "key"} + socket           answered by {"key", "fields"} + fd, or {"end": true} when it is unknown
    {"op": "list"} + socket                 answered by {"key"} for each, then {"end": true}
    {"op": "ready"}                         the supervisor answers requests
    {"op": "beat"}                          it is alive, every few seconds
    {"op": "ending"}                        it has been told to stop: another one is not wanted
    {"op": "renew"} + socket                go on with the installed code: {"pid", "version"}, or {"error"}
"""

import array
import json
import os
import socket
from typing import Any

PROTOCOL = 1
"""Of these packets and of what a keeper hands to its successor (``cowfs_daemon.succession``)."""

PACKET_BYTES = 8192


def send(sock: socket.socket, message: dict[str, Any], descriptor: int | None = None, flags: int = 0) -> None:
    """Send one packet. Raises OSError when the other end is gone."""
    rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sock.sendmsg([json.dumps(message).encode()], rights, flags)


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
    """(message, descriptor) of one packet; (None, None) when the other end is gone or speaks nonsense."""
    data, rights, _, _ = sock.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) // 4 * 4])
    descriptor = descriptors[0] if descriptors else None
    try:
        message = json.loads(data)
        if isinstance(message, dict):
            return message, descriptor
    except ValueError:
        pass
    if descriptor is not None:
        os.close(descriptor)
    return None, None
