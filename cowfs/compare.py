"""What differs between two states, in time proportional to what changed, not to what exists.

Deltas that both states share are skipped by identity, settled trees by block id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cowfs.formats.inode import decode_dirent
from cowfs.layers.layer import Layer
from cowfs.tree import radix
from cowfs.view.directory import Directory, OverlayDirectory, StoredDirectory
from cowfs.view.file import FileData, OverlayFile, StoredFile
from cowfs.view.inode import Inode
from cowfs.view.state import State

_READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class Changes:
    """``inodes``: number -> (in the first state, in the second), None where it is in one only.

    ``names``: (directory inode, name) that name another inode, or none, in the second state.
    ``gone``: inodes that the second state does not have. ``revived``: directories that have a place again.
    ``moved``: (inode, new directory, new name) of directories that are elsewhere, those further up first.
    """

    inodes: dict[int, tuple[Inode | None, Inode | None]] = field(default_factory=dict)
    names: list[tuple[int, bytes]] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    revived: set[int] = field(default_factory=set)
    moved: list[tuple[int, int, bytes]] = field(default_factory=list)

    def places(self, ino: int) -> set[tuple[int, bytes]]:
        """(directory, name) of everything that named the inode in the first state, or does so in the second."""
        found = self.inodes.get(ino, ())
        return {link for inode in found if inode is not None for link in inode.links}


def compare(old: State, new: State) -> Changes:
    """Every inode and name that differs. Content is compared by representation: it may be equal bytes."""
    changes = Changes()
    for ino in _candidates(old, new):
        before, after = old.find(ino), new.find(ino)
        if before is after or (before is not None and after is not None and same_inode(before, after)):
            continue
        changes.inodes[ino] = (before, after)
        if after is None:
            changes.gone.add(ino)
        elif after.is_dir and (before is None or not before.nlink):
            changes.revived.add(ino)
        elif after.is_dir and before is not None and before.links != after.links:
            changes.moved.append((ino, *after.links[0]))
        changes.names += [(ino, name) for name in _changed_names(before, after)]
    changes.moved.sort(key=lambda place: new.depth(place[0]))
    return changes


def _candidates(old: State, new: State) -> set[int]:
    """Numbers of all inodes that may differ."""
    above_old, base_old = _chain(old)
    above_new, base_new = _chain(new)
    shared = {id(delta) for delta in above_old} & {id(delta) for delta in above_new}
    found: set[int] = set(old.orphans)
    for deltas in (above_old, above_new):
        for delta in deltas:
            if id(delta) in shared:
                break  # everything below is shared too
            found.update(delta)
    if not shared and base_old != base_new:
        found.update(ino for ino, _, _ in radix.diff(old.blocks, base_old, base_new))
    return found


def _chain(state: State) -> tuple[list[dict[int, Inode | None]], bytes]:
    """(deltas from the live one down, pointer of the settled inode table below them)."""
    deltas = [state.live]
    layer: Layer | None = state.parent
    while layer is not None:
        below, delta = layer.below
        if delta is None:
            return deltas, layer.table or b""
        deltas.append(delta)
        layer = below
    return deltas, b""


def same_attributes(a: Inode, b: Inode) -> bool:
    """Whether stat(2) and listxattr(2) tell the same of both, besides size, blocks, links and ctime."""
    return (a.mode, a.uid, a.gid, a.rdev, a.atime, a.mtime, a.btime, a.xattrs) == (
        b.mode, b.uid, b.gid, b.rdev, b.atime, b.mtime, b.btime, b.xattrs,
    )  # fmt: skip


def same_inode(a: Inode, b: Inode) -> bool:
    """Whether nothing differs that anybody could see; False may be returned for equal content."""
    return (
        same_attributes(a, b)
        and (a.nlink, a.size, a.blocks, a.ctime) == (b.nlink, b.size, b.blocks, b.ctime)
        and [*a.links] == [*b.links]
        and _same_representation(a.data, b.data)
    )


def _same_representation(a: FileData | Directory | bytes | None, b: FileData | Directory | bytes | None) -> bool:
    a, b = _at_rest(a), _at_rest(b)
    if isinstance(a, StoredFile) and isinstance(b, StoredFile):
        return a.content == b.content
    if isinstance(a, StoredDirectory) and isinstance(b, StoredDirectory):
        return a.pointer == b.pointer
    return a is b or (isinstance(a, bytes) and a == b)


def _at_rest(data: FileData | Directory | bytes | None) -> FileData | Directory | bytes | None:
    if isinstance(data, OverlayFile | OverlayDirectory) and data.settled is not None:
        return data.settled
    return data


def same_content(a: Inode, b: Inode) -> bool:
    """Whether two regular files or symlinks hold the same bytes; reads them if it must."""
    if a.size != b.size:
        return False
    left, right = _at_rest(a.data), _at_rest(b.data)
    if left is right or _same_representation(left, right):
        return True
    if isinstance(left, StoredFile | OverlayFile) and isinstance(right, StoredFile | OverlayFile):
        for at in range(0, a.size, _READ_BYTES):
            size = min(_READ_BYTES, a.size - at)
            if left.read(at, size) != right.read(at, size):
                return False
        return True
    return False


def _changed_names(before: Inode | None, after: Inode | None) -> Iterator[bytes]:
    old = before.data if before is not None else None
    new = after.data if after is not None else None
    if isinstance(old, OverlayDirectory | StoredDirectory):
        if not isinstance(new, OverlayDirectory | StoredDirectory):
            yield from (entry.name for entry in old.entries(2))
            return
        for name in _candidate_names(old, new):
            a, b = old.lookup(name), new.lookup(name)
            if (a and a.ino) != (b and b.ino):
                yield name
    elif isinstance(new, OverlayDirectory | StoredDirectory):
        yield from (entry.name for entry in new.entries(2))


def _candidate_names(old: Directory, new: Directory) -> set[bytes]:
    old_maps, old_pointer = _overlays(old)
    new_maps, new_pointer = _overlays(new)
    shared = {id(names) for names in old_maps} & {id(names) for names in new_maps}
    found: set[bytes] = set()
    for maps in (old_maps, new_maps):
        for names in maps:
            if id(names) in shared:
                break
            found.update(names)
    if not shared and old_pointer != new_pointer:
        blocks = next((d.blocks for d in (_bottom(old), _bottom(new)) if d is not None), None)
        if blocks is not None:
            for cookie, a, b in radix.diff(blocks, old_pointer, new_pointer):
                found.update(decode_dirent(cookie, value).name for value in (a, b) if value is not None)
    return found


def _overlays(directory: Directory) -> tuple[list[dict[bytes, object]], bytes]:
    maps: list[dict[bytes, object]] = []
    at: Directory | None = directory
    while at is not None:
        if isinstance(at, StoredDirectory):
            return maps, at.pointer
        level = at.map
        if level is None:
            at = at.settled
            continue
        maps.append(level.by_name)  # type: ignore[arg-type]
        at = level.base
    return maps, b""


def _bottom(directory: Directory) -> StoredDirectory | None:
    at: Directory | None = directory
    while isinstance(at, OverlayDirectory):
        level = at.map
        at = at.settled if level is None else level.base
    return at
