"""POSIX access control lists by acl(5), for the model: what chmod, creation and setfacl do to mode and list."""

import errno
import os
import struct

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY_IN_PARTICULAR = 0xFFFFFFFF

List = list[tuple[int, int, int]]
"""Entries (tag, permissions 0 to 7, user or group id), as the kernel orders them."""


def pack(entries: List) -> bytes:
    """The value of the extended attribute."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def unpack(value: bytes) -> List:
    """The entries of a value that :func:`pack` made. Raises EINVAL for other bytes."""
    if len(value) % 8 != 4 or value[:4] != struct.pack("<I", 2):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]


def simple(
    user: int, group: int, other: int, named_user: tuple[int, int] | None = None, mask: int | None = None
) -> List:
    """A list with the three base entries, and maybe one named user (id, permissions) and a mask."""
    who = NOBODY_IN_PARTICULAR
    entries = [(USER_OBJ, user, who)]
    if named_user is not None:
        entries.append((USER, named_user[1], named_user[0]))
    entries.append((GROUP_OBJ, group, who))
    if mask is not None:
        entries.append((MASK, mask, who))
    return [*entries, (OTHER, other, who)]


def shift(entries: List, tag: int) -> int | None:
    """Where in the mode the entry's permissions show, or None: the mask stands for the group where there is one."""
    group = MASK if any(entry[0] == MASK for entry in entries) else GROUP_OBJ
    return {USER_OBJ: 6, group: 3, OTHER: 0}.get(tag)


def mode_bits(entries: List) -> int:
    """The nine permission bits that the list shows as."""
    return sum(perm << at for tag, perm, _ in entries if (at := shift(entries, tag)) is not None)


def only_mode(entries: List) -> bool:
    """Whether the mode says as much, so that the kernel stores no list."""
    return all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in entries)


def after_chmod(entries: List, mode: int) -> List:
    """The access list after chmod."""
    return [(t, p if (at := shift(entries, t)) is None else mode >> at & 7, who) for t, p, who in entries]


def for_new(default: List, mode: int) -> List:
    """The access list of something created with ``mode`` in a directory with this default list."""
    return [(t, p if (at := shift(default, t)) is None else p & mode >> at & 7, who) for t, p, who in default]
