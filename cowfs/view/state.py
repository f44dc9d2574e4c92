"""One filesystem state in motion: resolve an inode, clone it for change.

An inode is looked for in ``known`` (everything resolved lately), the live delta, the frozen deltas and
the settled base, in this order. Everything here runs under the workspace's lock.

Invariants:
- ``live[ino]`` is an inode that this delta owns, or None: gone since the parent layer;
- every inode of ``live`` and ``orphans`` is in ``known``;
- an orphan (no name, but open or known to the kernel) is never in ``live`` with a value;
- ``files`` counts the inodes that have a name, ``sectors`` sums what all inodes have allocated, orphans too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Container

from cowfs.blocks.api import BlockSource
from cowfs.errors import Corrupt
from cowfs.formats import inode as fmt
from cowfs.formats.inode import Content, InodeRecord
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, Geometry
from cowfs.layers.layer import Layer, Span
from cowfs.tree import content as contents
from cowfs.tree import radix
from cowfs.view.directory import Directory, OverlayDirectory, StoredDirectory
from cowfs.view.file import FileData, OverlayFile, StoredFile
from cowfs.view.inode import Inode, Owner

INODE_BYTES = 650
"""What a resolved inode takes in memory, about."""

_PREPAID = 8 * INODE_BYTES
"""So much at a time is added to what a leaf takes in its cache."""

PAIR_BYTES, LINK_BYTES = 130, 125
"""What an xattr takes beside its bytes, and a name of several with them, about."""

HEAVY_BYTES = 1024
"""An inode that takes more beside INODE_BYTES (xattrs, further names, the target of a link) is a heavy one."""

HEAVY_LIMIT = 8 << 20
"""Such bytes of all heavy inodes that a state has resolved but not changed, at most: the last one may exceed it."""

KNOWN_LIMIT = 200_000
"""Resolved but unchanged inodes that a state keeps; a host gives each of many states less."""


def fail(code: int) -> OSError:
    """The error a system call returns."""
    return OSError(code, os.strerror(code))


class State:
    """A filesystem state: ``parent`` (frozen layers down to a settled one) and a live delta on top.

    ``opens`` holds (open, writable) per inode that has descriptors, as journaled; ``pinned`` contains
    the inodes that a transport's kernel still knows, ``linkable`` the orphans that never had a name
    (O_TMPFILE): only these may get one. ``merged``: what of the delta was merged, and so may lie on blocks that only
    an older root than the parent's refers to. ``cloned``: extents that clones have made in the delta, which weigh as
    much as records. ``heavy``: bytes of the heavy inodes that are ``known`` and not in the delta, oldest first;
    ``heavy_bytes``: their sum; ``live_heavy``: bytes of those in the delta. ``arriving``: a carried orphan that a
    replay has not met every byte of yet, whether it is linkable, and how many pages are missing.
    """

    __slots__ = (
        "arriving",
        "blocks",
        "cloned",
        "files",
        "finger",
        "first_ino",
        "geometry",
        "heavy",
        "heavy_bytes",
        "known",
        "known_limit",
        "linkable",
        "live",
        "live_heavy",
        "merged",
        "next_ino",
        "opens",
        "orphans",
        "owner",
        "parent",
        "pinned",
        "sectors",
    )

    def __init__(self, blocks: BlockSource, geometry: Geometry, parent: Layer | None, next_ino: int = 0) -> None:
        self.blocks = blocks
        self.geometry = geometry
        self.parent = parent
        self.next_ino = max(next_ino, parent.next_ino if parent is not None else 2)
        self.first_ino = self.next_ino
        self.files = parent.files if parent is not None else 0
        self.sectors = parent.sectors if parent is not None else 0
        self.owner = Owner()
        self.live: dict[int, Inode | None] = {}
        self.merged: list[FileData | Directory] = []
        self.cloned = self.heavy_bytes = 0
        self.heavy: OrderedDict[int, int] = OrderedDict()
        self.live_heavy: dict[int, int] = {}
        self.finger = radix.Finger(blocks)
        self.known: dict[int, Inode] = {}
        self.known_limit = KNOWN_LIMIT
        self.orphans: dict[int, Inode] = {}
        self.linkable: set[int] = set()
        self.arriving: tuple[Inode, bool, int] | None = None
        self.opens: dict[int, tuple[int, int]] = {}
        self.pinned: Container[int] = ()

    def find(self, ino: int) -> Inode | None:
        """The inode, or None when this state has none of that number."""
        inode = self.known.get(ino)
        if inode is not None:
            return inode
        if ino in self.live:
            return self.live[ino]
        inode = self._resolve(ino)
        if inode is not None:
            if len(self.known) > self.known_limit + len(self.live):
                self._shrink()
            if (weight := _weight(inode)) > HEAVY_BYTES:
                self._take_heavy({ino: weight})
            self.known[ino] = inode
        return inode

    def inode(self, ino: int) -> Inode:
        """The inode. Raises ESTALE when this state has none of that number."""
        inode = self.known.get(ino) or self.find(ino)
        if inode is None:
            raise fail(errno.ESTALE)
        return inode

    def depth(self, ino: int) -> int:
        """How many directories lie above one."""
        depth, links = 0, self.inode(ino).links
        while links:
            depth, links = depth + 1, self.inode(links[0][0]).links
        return depth

    def _resolve(self, ino: int) -> Inode | None:
        layer = self.parent
        while layer is not None:
            below, delta = layer.below
            if delta is None:
                return self._load(layer, ino)
            if ino in delta:
                return delta[ino]
            layer = below
        return None

    def _load(self, layer: Layer, ino: int) -> Inode | None:
        if layer.table is None:
            raise Corrupt(f"layer {layer.id} has neither changes nor a root")
        found = self.finger.find(layer.table, ino)
        if found is None:
            return None
        leaf, index = found
        made = leaf.made
        inode: Inode | None = made.get(index)
        if inode is None:
            value = leaf.value(index)
            inode = thaw(self.blocks, self.geometry, ino, fmt.decode_inode(value))
            left = leaf.prepaid - INODE_BYTES - len(value) - _weight(inode)
            if left < 0:
                self.blocks.nodes.grow(leaf.id, leaf, _PREPAID - left)
                left = _PREPAID
            leaf.prepaid = left
            # At rest nobody changes it, and other states that have the same leaf need it too: forks, other mounts.
            made[index] = inode
        return inode

    def _take_heavy(self, found: dict[int, int]) -> None:
        """Count heavy inodes that are not in the delta; those that were found first are not known any more."""
        for ino, weight in found.items():
            self.heavy_bytes += weight - self.heavy.pop(ino, 0)
            self.heavy[ino] = weight
        while self.heavy_bytes > HEAVY_LIMIT and len(self.heavy) > 1:
            ino, weight = self.heavy.popitem(last=False)
            self.heavy_bytes -= weight
            if ino not in self.orphans:
                self.known.pop(ino, None)

    def weigh(self, inode: Inode) -> None:
        """An inode of the delta has become heavier."""
        if (weight := _weight(inode)) > HEAVY_BYTES:
            self.live_heavy[inode.ino] = weight

    def _shrink(self) -> None:
        self.heavy.clear()
        self.heavy_bytes = 0
        self.finger.let_go()
        self.known = {ino: inode for ino, inode in self.live.items() if inode is not None}
        self.known.update(self.orphans)

    def own(self, inode: Inode) -> Inode:
        """``inode``, or its clone, such that the live delta may change it."""
        if inode.owner is self.owner:
            return inode
        ino = inode.ino
        mine = inode.clone(self.owner)
        self.known[ino] = mine
        if ino in self.heavy:
            weight = self.live_heavy[ino] = self.heavy.pop(ino)
            self.heavy_bytes -= weight
        if ino in self.orphans:
            self.orphans[ino] = mine
        else:
            self.live[ino] = mine
        return mine

    def add(self, inode: Inode) -> None:
        """Take a new inode into the live delta."""
        inode.owner = self.owner
        self.live[inode.ino] = self.known[inode.ino] = inode
        self.files += 1
        self.sectors += inode.blocks
        if inode.ino >= self.next_ino:
            self.next_ino = inode.ino + 1

    def drop(self, inode: Inode, orphan: bool) -> None:
        """The inode lost its last name; keep it as an orphan while somebody can still use it."""
        ino = inode.ino
        self.files -= 1
        if ino >= self.first_ino:
            self.live.pop(ino, None)
        else:
            self.live[ino] = None
        if orphan or ino in self.pinned:
            self.orphans[ino] = inode
            self.known[ino] = inode
        else:
            self.known.pop(ino, None)
            self.sectors -= inode.blocks

    def add_orphan(self, inode: Inode) -> None:
        """Take an inode without a name, in the place of what is known of it."""
        inode.owner = self.owner
        old = self.orphans.get(inode.ino)
        self.sectors += inode.blocks - (old.blocks if old is not None else 0)
        self.orphans[inode.ino] = self.known[inode.ino] = inode

    def end_orphan(self, ino: int) -> None:
        """Forget an orphan for good."""
        inode = self.orphans.pop(ino, None)
        if inode is not None:
            self.sectors -= inode.blocks
            self.known.pop(ino, None)
            self.linkable.discard(ino)

    def directory(self, inode: Inode) -> Directory:
        """The entries of a directory. Raises ENOTDIR."""
        data = inode.data
        if isinstance(data, (OverlayDirectory, StoredDirectory)):
            return data
        raise fail(errno.ENOTDIR)

    def own_directory(self, inode: Inode) -> OverlayDirectory:
        """The entries of a directory that the live delta owns, ready for change."""
        data = inode.data
        if isinstance(data, OverlayDirectory) and data.owner is self.owner:
            return data
        if not isinstance(data, (OverlayDirectory, StoredDirectory)):
            raise fail(errno.ENOTDIR)
        mine = OverlayDirectory(self.owner, data if len(data) else None, self.geometry.key_bits, self.merged)
        inode.data = mine
        return mine

    def file(self, inode: Inode) -> FileData:
        """The data of a regular file. Raises EISDIR or EINVAL."""
        data = inode.data
        if isinstance(data, (OverlayFile, StoredFile)):
            return data
        raise fail(errno.EISDIR if inode.is_dir else errno.EINVAL)

    def own_file(self, inode: Inode) -> OverlayFile:
        """The data of a regular file that the live delta owns, ready for change."""
        data = inode.data
        if isinstance(data, OverlayFile) and data.owner is self.owner:
            return data
        base = self.file(inode)
        mine = OverlayFile(self.owner, base if inode.size else None, inode.size, self.merged)
        inode.data = mine
        return mine

    def freeze(self, layer_id: str, workspace: str, spans: tuple[Span, ...]) -> Layer:
        """The live delta becomes a layer; this state goes on with an empty delta on top of it."""
        unnamed = sum(orphan.blocks for orphan in self.orphans.values())
        layer = Layer(
            layer_id, workspace, self.parent, self.live, spans, self.next_ino, self.files, self.sectors - unnamed
        )
        layer.merged, self.merged = self.merged, []
        layer.records += self.cloned
        self.cloned = 0
        self.parent = layer
        self.live = {}
        self.owner = Owner()
        self.first_ino = self.next_ino
        if len(self.known) > self.known_limit:
            self._shrink()  # else what was made would stay known for ever
        heavy, self.live_heavy = self.live_heavy, {}
        self._take_heavy({ino: weight for ino, weight in heavy.items() if ino in self.known})
        return layer


def _weight(inode: Inode) -> int:
    """What a resolved inode takes in memory beside INODE_BYTES, about: bytes."""
    weight = LINK_BYTES * max(len(inode.links) - 1, 0)
    if inode.xattrs:
        weight += sum([PAIR_BYTES + len(name) + len(value) for name, value in inode.xattrs.items()])
    data = inode.data
    return weight + len(data) if data.__class__ is bytes else weight


def thaw(blocks: BlockSource, geometry: Geometry, ino: int, record: InodeRecord) -> Inode:
    """An inode in motion from a record at rest."""
    (
        mode, uid, gid, nlink, rdev, size, blocks_512, block_log2, atime, mtime, ctime, btime, xattrs, links, _, _, _,
    ) = record  # by position: each field by its name takes as long again  # fmt: skip
    inode = Inode.__new__(Inode)
    inode.ino, inode.owner = ino, None
    inode.mode, inode.uid, inode.gid, inode.nlink, inode.rdev = mode, uid, gid, nlink, rdev
    inode.size, inode.blocks, inode.block_log2 = size, blocks_512, block_log2
    inode.atime, inode.mtime, inode.ctime, inode.btime = atime, mtime, ctime, btime
    inode.xattrs = dict(contents.record_xattrs(blocks, record) if xattrs is None else xattrs)
    inode.links = contents.record_links(blocks, record) if links is None else links
    inode.data = thaw_content(blocks, geometry, record)
    return inode


def record_of(inode: Inode, content: Content) -> InodeRecord:
    """The record at rest of an inode whose content is stored as ``content``."""
    return InodeRecord(
        inode.mode, inode.uid, inode.gid, inode.nlink, inode.rdev, inode.size, inode.blocks, inode.block_log2,
        inode.atime, inode.mtime, inode.ctime, inode.btime,
        tuple(sorted(inode.xattrs.items())), tuple(inode.links), content,
    )  # fmt: skip


def thaw_content(
    blocks: BlockSource, geometry: Geometry, record: InodeRecord
) -> StoredFile | StoredDirectory | bytes | None:
    """What an inode holds, readable, from its record. Raises Corrupt when it does not fit the type."""
    kind = stat.S_IFMT(record.mode)
    if kind == stat.S_IFREG:
        return StoredFile(blocks, record.content, record.size, record.block_log2)
    if kind == stat.S_IFDIR:
        return StoredDirectory(blocks, contents.directory_pointer(record.content), geometry.key_bits)
    if kind == stat.S_IFLNK:
        return contents.read_symlink(blocks, record.content)
    return None


def new_inode(state: State, ino: int, mode: int, uid: int, gid: int, rdev: int, time: int) -> Inode:
    """A fresh inode without a name: all four times are ``time`` (ns)."""
    geometry = state.geometry
    inode = Inode.__new__(Inode)
    inode.ino, inode.mode, inode.uid, inode.gid, inode.rdev = ino, mode, uid, gid, rdev
    inode.nlink, inode.size, inode.blocks, inode.block_log2 = 1, 0, 0, geometry.block_log2
    inode.atime = inode.mtime = inode.ctime = inode.btime = time
    inode.xattrs, inode.links, inode.owner = {}, (), None
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        inode.nlink, inode.size, inode.blocks = 2, DIRECTORY_SIZE, DIRECTORY_BLOCKS
        inode.data = StoredDirectory(state.blocks, b"", geometry.key_bits)
    elif kind == stat.S_IFREG:
        inode.data = StoredFile(state.blocks, fmt.EMPTY, 0, geometry.block_log2)
    else:
        inode.data = None
    return inode
