"""POSIX access lists as text (acl_to_text(3)) and as the xattr that Linux keeps.

GNU tar writes the names of users and groups, whatever it is told; they mean what they mean on this machine.
"""

from __future__ import annotations

import grp
import os
import pwd
import struct
from functools import cache

_HEAD = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF
_TAGS = {(b"user", False): 1, (b"user", True): 2, (b"group", False): 4, (b"group", True): 8, (b"mask", False): 16,
         (b"other", False): 32}  # fmt: skip
_NAMES = {tag: (name, named) for (name, named), tag in _TAGS.items()}
_BITS = ((4, b"r"), (2, b"w"), (1, b"x"))
_ENTRIES_MAX = 8192


@cache
def _number(kind: bytes, name: bytes) -> int | None:
    """The number of a user or group."""
    if name.isdigit():
        return int(name) if len(name) <= 10 else None
    try:
        text = os.fsdecode(name)
        return pwd.getpwnam(text).pw_uid if kind == b"user" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        return None


def acl_from_text(text: bytes) -> bytes | None:
    """Entries ``user:1000:rwx``, separated by commas or line ends -> the xattr.

    None when they make no sense, or name somebody who is unknown here.
    """
    entries: list[tuple[int, int, int]] = []
    for line in text.replace(b",", b"\n").split(b"\n"):
        line = line.split(b"#", 1)[0].strip()
        if not line:
            continue
        parts = line.split(b":")
        if len(parts) == 4 and parts[3].isdigit():  # star writes user:NAME:rwx:NUMBER
            parts = [parts[0], parts[3], parts[2]]
        if len(parts) != 3 or len(parts[2]) != 3:
            return None
        tag = _TAGS.get((parts[0], bool(parts[1])))
        permissions = 0
        for (bit, letter), given in zip(_BITS, parts[2], strict=True):
            if given not in (letter[0], b"-"[0]):
                return None
            permissions |= bit if given == letter[0] else 0
        who = _number(parts[0], parts[1]) if parts[1] else _NOBODY
        if tag is None or who is None or who > _NOBODY or len(entries) == _ENTRIES_MAX:
            return None
        entries.append((tag, who, permissions))
    entries.sort()
    return _HEAD + b"".join(_ENTRY.pack(tag, permissions, who) for tag, who, permissions in entries)


def acl_to_text(acl: bytes) -> bytes | None:
    """The xattr -> text with numbers; None when it is none."""
    if acl[:4] != _HEAD or (len(acl) - 4) % _ENTRY.size:
        return None
    lines = []
    for tag, permissions, who in _ENTRY.iter_unpack(acl[4:]):
        name, named = _NAMES.get(tag, (b"", False))
        if not name or permissions > 7:
            return None
        letters = b"".join(letter if permissions & bit else b"-" for bit, letter in _BITS)
        lines.append(b"%s:%s:%s" % (name, b"%d" % who if named else b"", letters))
    return b",".join(lines)
