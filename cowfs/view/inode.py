"""One inode in motion, and the small values that operations take and give."""

from __future__ import annotations

import stat
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from cowfs.view.directory import Directory
    from cowfs.view.file import FileData


Link = tuple[int, bytes]
"""(parent inode, name)"""

MANY_LINKS: Final = 16
"""Names of a file above which adding and dropping one must not copy all others."""


class Caller(NamedTuple):
    """Who asks: credentials, umask, and the journaled request key (connection id, FUSE unique)."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0
    connection: int = 0
    unique: int = 0


class _Now:
    """The time at which the operation is journaled."""


NOW: Final = _Now()
"""Used in :class:`SetAttr` for "the current time"."""


def clamped(time: int) -> int:
    """A time in ns since the epoch as it can be stored, in 64 bits: the nearest of the years 1677 to 2262."""
    return max(-(1 << 63), min((1 << 63) - 1, time))


class SetAttr(NamedTuple):
    """What setattr changes; None leaves a field alone. Times in ns, :func:`clamped`, or :data:`NOW`.

    ``kill_priv``: clear set-id bits and security.capability as a write or chown does.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | _Now | None = None
    mtime: int | _Now | None = None
    ctime: int | _Now | None = None
    kill_priv: bool = False


class Statfs(NamedTuple):
    """Sizes of a workspace: ``blocks`` and ``blocks_free`` in units of ``block_size`` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int


class Owner:
    """Identity of one delta: what carries it may be changed in place, everything else is cloned first.

    It refers to nothing, so that a delta goes with its last user: these are too many to look for cycles often.
    """

    __slots__ = ()


class Inode:
    """One inode. Read-only for callers; ``owner`` tells the view whether it may be changed in place.

    ``links`` are the (parent inode, name) that name it, sorted: a tuple, or a list of its own when there
    are many; ``data`` is the content of a regular file, the entries of a directory, the target of a
    symlink, else None.
    """

    __slots__ = (
        "atime",
        "block_log2",
        "blocks",
        "btime",
        "ctime",
        "data",
        "gid",
        "ino",
        "links",
        "mode",
        "mtime",
        "nlink",
        "owner",
        "rdev",
        "size",
        "uid",
        "xattrs",
    )

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blocks: int
    block_log2: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    xattrs: dict[bytes, bytes]
    links: Sequence[Link]
    data: FileData | Directory | bytes | None
    owner: Owner | None

    def clone(self, owner: Owner) -> Inode:
        """A copy that belongs to ``owner``; the content is shared until it is written."""
        other = Inode.__new__(Inode)
        other.ino, other.mode, other.uid, other.gid = self.ino, self.mode, self.uid, self.gid
        other.nlink, other.rdev, other.size, other.blocks = self.nlink, self.rdev, self.size, self.blocks
        other.block_log2, other.btime = self.block_log2, self.btime
        other.atime, other.mtime, other.ctime = self.atime, self.mtime, self.ctime
        other.xattrs, other.data, other.owner = self.xattrs, self.data, owner
        links = self.links
        other.links = tuple(links) if links.__class__ is list else links
        return other

    def add_link(self, link: Link) -> None:
        """One more of ``links``."""
        links = self.links
        if isinstance(links, list):
            insort(links, link)
        else:
            ordered = sorted((*links, link))
            self.links = ordered if len(ordered) > MANY_LINKS else tuple(ordered)

    def drop_link(self, link: Link) -> None:
        """One less of ``links``."""
        links = self.links
        if len(links) > MANY_LINKS:
            if not isinstance(links, list):
                links = self.links = list(links)
            at = bisect_left(links, link)
            if links[at : at + 1] == [link]:
                del links[at]
        else:
            self.links = tuple(pair for pair in links if pair != link)

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class ViewStatistics:
    """``live``: inodes changed since the last freeze; ``known``: inodes resolved in memory.

    ``inodes`` and ``used_bytes``: what counts towards a quota, of all inodes of the state.
    """

    live: int
    known: int
    orphans: int
    next_ino: int
    inodes: int = 0
    used_bytes: int = 0
