"""POSIX ACLs as the kernel stores them in xattrs (linux/posix_acl_xattr.h): version 2, then entries."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

Entries = list[tuple[int, int, int]]
"""(tag, permission bits, id)"""


def decode(value: bytes) -> Entries | None:
    """The entries of an ACL, or None when the bytes are not one."""
    if len(value) < 4 or value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        return None
    entries = [_ENTRY.unpack_from(value, at) for at in range(4, len(value), _ENTRY.size)]
    tags = [tag for tag, _, _ in entries]
    named = _USER in tags or _GROUP in tags
    valid = (
        all(tag in (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER) and perm < 8 for tag, perm, _ in entries)
        and tags == sorted(tags)
        and tags.count(_USER_OBJ) == tags.count(_GROUP_OBJ) == tags.count(_OTHER) == 1
        and tags.count(_MASK) <= 1
        and (not named or _MASK in tags)
    )
    return entries if valid else None


def encode(entries: Entries) -> bytes:
    """The xattr value of an ACL."""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _group_tag(entries: Entries) -> int:
    return _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ


def mode_of(entries: Entries, mode: int) -> int:
    """``mode`` with the permission bits that an access ACL stands for."""
    group = _group_tag(entries)
    bits = 0
    for tag, perm, _ in entries:
        if tag == _USER_OBJ:
            bits |= perm << 6
        elif tag == group:
            bits |= perm << 3
        elif tag == _OTHER:
            bits |= perm
    return mode & ~0o777 | bits


def is_minimal(entries: Entries) -> bool:
    """Whether the mode bits alone say the same, so that nothing needs to be stored."""
    return len(entries) == 3


def with_mode(entries: Entries, mode: int) -> Entries:
    """The access ACL after chmod(2) to ``mode``: owner, mask (or group) and other follow it."""
    group = _group_tag(entries)
    bits = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return [(tag, bits.get(tag, perm), who) for tag, perm, who in entries]


def with_ids(entries: Entries, users: Callable[[int], int], groups: Callable[[int], int]) -> Entries:
    """The same ACL with the users and groups that it names by other numbers."""
    numbers = {_USER: users, _GROUP: groups}
    return [(tag, perm, numbers[tag](who) if tag in numbers else who) for tag, perm, who in entries]


def inherit(default: bytes, mode: int) -> tuple[int, bytes] | None:
    """(mode, access ACL or empty) of a new inode under a directory with this default ACL.

    The requested bits and the ACL limit each other; the umask does not count (acl(5)). None when the
    default ACL is damaged.
    """
    entries = decode(default)
    if entries is None:
        return None
    group = _group_tag(entries)
    limits = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    merged = [(tag, perm & limits.get(tag, 7), who) for tag, perm, who in entries]
    return mode_of(merged, mode), b"" if is_minimal(merged) else encode(merged)
