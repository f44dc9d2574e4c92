"""Who sent a request."""

from __future__ import annotations

from cowfs.view.inode import Caller
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.served import Served

_KEY_MASK = ~protocol.UNIQUE_RESEND


def caller(served: Served, request: bytearray, unique: int, umask: int = 0) -> Caller:
    """Credentials, umask and request key (the same when the kernel sends the request again)."""
    uid, gid, pid = protocol.credentials(request)
    return Caller(uid, gid, pid, umask, served.connection_id, unique & _KEY_MASK)
