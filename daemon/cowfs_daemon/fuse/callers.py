"""Who sent a request."""

from __future__ import annotations

import stat
from contextlib import suppress

from cowfs.view.inode import Caller, Inode
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.served import Served

NOBODY = 0xFFFFFFFF
"""The uid in requests for which the kernel fills in no credentials: FALLOCATE, COPY_FILE_RANGE."""

CAP_FSETID = 1 << 4

_KEY_MASK = ~protocol.UNIQUE_RESEND


def caller(served: Served, request: bytearray, unique: int, umask: int = 0) -> Caller:
    """Credentials, umask and request key (the same when the kernel sends the request again)."""
    uid, gid, pid = protocol.credentials(request)
    return Caller(uid, gid, pid, umask, served.connection_id, unique & _KEY_MASK)


def changing(who: Caller, inode: Inode) -> Caller:
    """The caller of a request without credentials that changes data: as root where set-id bits may stay.

    Only such bits make it worth a look; a process that is gone, or cannot be seen from here, is no root.
    """
    if who.uid != NOBODY or not inode.mode & (stat.S_ISUID | stat.S_ISGID):
        return who
    with suppress(OSError, ValueError), open(f"/proc/{who.pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:") and int(line[7:], 16) & CAP_FSETID:
                return who._replace(uid=0)
    return who
