"""Who sent a request."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from cowfs.owners import Owners
from cowfs.view.inode import Caller, Inode, SetAttr
from cowfs.view.view import View
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.served import Served

NOBODY = 0xFFFFFFFF
"""The uid in requests for which the kernel fills in no credentials: FALLOCATE, COPY_FILE_RANGE."""

CAP_FSETID = 1 << 4
CAP_SYS_ADMIN = 1 << 21

TRUSTED = b"trusted."
"""Extended attributes that the kernel lets nobody read, or set, who may not administer the system."""

_FIRST_USER_NAMESPACE = 0xEFFFFFFD
"""Inode of the initial user namespace below /proc (PROC_USER_INIT_INO): the only one where such a right counts."""

_KEY_MASK = ~protocol.UNIQUE_RESEND


def caller(served: Served, request: bytearray, unique: int, umask: int = 0) -> Caller:
    """Credentials, umask and request key (the same when the kernel sends the request again)."""
    uid, gid, pid = protocol.credentials(request)
    return Caller(uid, gid, pid, umask, served.connection_id, unique & _KEY_MASK)


class Credentials(NamedTuple):
    """Of a process, as the kernel checks them: ``keeps``: set-id bits stay when it changes data."""

    uid: int
    groups: frozenset[int]
    keeps: bool


_NONE = Credentials(NOBODY, frozenset(), False)


def credentials(pid: int, owners: Owners | None) -> Credentials:
    """What /proc says of a process, in stored ids; one that is gone, or cannot be seen from here, is nobody."""
    fields = _status(pid)
    try:
        uid, groups = int(fields["Uid"][3]), [int(group) for group in (fields["Gid"][3], *fields["Groups"])]
        if owners is not None:
            uid, groups = owners.users.stored(uid), [owners.groups.stored(group) for group in groups]
        return Credentials(uid, frozenset(groups), bool(int(fields["CapEff"][0], 16) & CAP_FSETID))
    except (KeyError, IndexError, ValueError):
        return _NONE


def _status(pid: int) -> dict[str, list[str]]:
    """The words behind each name in /proc/PID/status; none when it cannot be seen."""
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return {name: rest.split() for name, _, rest in (line.partition(":") for line in file)}
    return {}


def listed(names: Sequence[bytes], pid: int) -> Sequence[bytes]:
    """Those of an inode's extended attributes that listxattr(2) tells a process of: the kernel leaves that to us."""
    if not any(name.startswith(TRUSTED) for name in names) or _administers(pid):
        return names
    return [name for name in names if not name.startswith(TRUSTED)]


def _administers(pid: int) -> bool:
    try:
        capable = int(_status(pid)["CapEff"][0], 16) & CAP_SYS_ADMIN
        return bool(capable) and os.stat(f"/proc/{pid}/ns/user").st_ino == _FIRST_USER_NAMESPACE
    except (KeyError, IndexError, ValueError, OSError):
        return False


def changing(served: Served, who: Caller, inode: Inode) -> Caller:
    """The caller of a request without credentials that changes data: as root where set-id bits may stay.

    Only such bits make it worth a look.
    """
    if who.uid != NOBODY or not inode.mode & (stat.S_ISUID | stat.S_ISGID):
        return who
    return who._replace(uid=0) if credentials(who.pid, served.owners).keeps else who


def drop_group_bit(served: Served, view: View, ino: int, who: Caller) -> None:
    """Before a change of data: clear a set-group-id bit without group execute for who is not in the file's group.

    The view keeps such a bit (it once marked mandatory locking), as Linux does for members. Without a request key: the
    change itself is what may come again.
    """
    inode = view.inode(ino)
    mode = inode.mode
    if mode & (stat.S_ISGID | stat.S_IXGRP) != stat.S_ISGID or inode.is_dir:
        return
    their = credentials(who.pid, served.owners)
    if not their.keeps and inode.gid not in their.groups:
        view.setattr(ino, SetAttr(mode=mode & 0o7777 & ~stat.S_ISGID), who._replace(connection=0, unique=0))
