"""Which numbers of users and groups of the host stand for the stored ones, where a store is served without root.

What is stored is what a program sees inside a sandbox: 0 is root. An ordinary user may act as one host user alone, and
as those of the ranges that subuid(5) grants. As rootless container tools do, stored 0 is shown as that user, and 1 and
up as the granted ones. Everything else is shown, and stored, as :data:`OVERFLOW`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cowfs.view import acl

OVERFLOW: Final = 65534
"""The id that the kernel, too, shows for ids that have no number where they are looked at (user_namespaces(7))."""

UNKNOWN: Final = 0xFFFFFFFF
"""No id: what the kernel says of a request without credentials, and chown(2) of an id that is to stay."""

Range = tuple[int, int]
"""(first host id, how many)"""


class Ids:
    """A map between stored ids and host ids: stored ids from 0 on lie in ``ranges``, one after the other."""

    __slots__ = ("_ranges", "ranges")

    def __init__(self, ranges: Iterable[Range]) -> None:
        self.ranges = tuple(ranges)
        self._ranges: list[tuple[int, int, int]] = []
        stored = 0
        for first, count in self.ranges:
            self._ranges.append((stored, first, count))
            stored += count

    def shown(self, stored: int) -> int:
        """The host's id for a stored one."""
        for begins, first, count in self._ranges:
            if begins <= stored < begins + count:
                return first + stored - begins
        return stored if stored == UNKNOWN else OVERFLOW

    def stored(self, shown: int) -> int:
        """The id to be stored for one of the host."""
        for begins, first, count in self._ranges:
            if first <= shown < first + count:
                return begins + shown - first
        return shown if shown == UNKNOWN else OVERFLOW


class Owners(NamedTuple):
    """The maps of users and of groups."""

    users: Ids
    groups: Ids

    def stored_xattr(self, name: bytes, value: bytes) -> bytes:
        """The value of an xattr as it is stored: ACLs name users and groups."""
        return _acl(value, self.users.stored, self.groups.stored) if name in _ACLS else value

    def shown_xattr(self, name: bytes, value: bytes) -> bytes:
        """The value of a stored xattr, as the host shall see it."""
        return _acl(value, self.users.shown, self.groups.shown) if name in _ACLS else value


_ACLS: Final = (acl.ACCESS, acl.DEFAULT)


def _acl(value: bytes, users: Callable[[int], int], groups: Callable[[int], int]) -> bytes:
    entries = acl.decode(value)
    return value if entries is None else acl.encode(acl.with_ids(entries, users, groups))
