"""What each journal record does to a state: the same code serves live operations, replay and settling.

Nothing here can fail on a record that was validated when it was made; a record that does not fit the
state (a damaged journal) raises Corrupt or ESTALE and the replay stops there.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any, Final

from cowfs.errors import Corrupt
from cowfs.formats import inode as fmt
from cowfs.formats import journal as j
from cowfs.formats.inode import Dirent
from cowfs.geometry import PAGE
from cowfs.view import acl
from cowfs.view.directory import free_cookie
from cowfs.view.file import Source, fresh_pages
from cowfs.view.inode import Inode
from cowfs.view.sharing import Shared, pieces
from cowfs.view.state import State, new_inode, thaw

CAPABILITY: Final = b"security.capability"
RENAME_EXCHANGE, RENAME_WHITEOUT = 2, 4
PUNCH_HOLE, ZERO_RANGE, KEEP_SIZE = 0x02, 0x10, 0x01


def make(state: State, time: int, record: j.Make, cookie: int = 0) -> Inode:
    """A new inode under a new name; ``cookie``: the free one of the name, where it is known."""
    inode = new_inode(state, record.ino, record.mode, record.uid, record.gid, record.rdev, time)
    if record.xattrs:
        inode.xattrs = dict(fmt.decode_xattrs(record.xattrs))
        state.weigh(inode)
    if stat.S_ISLNK(record.mode):
        inode.data = record.target
        inode.size = len(record.target)
        state.weigh(inode)
    inode.links = ((record.parent, record.name),)
    parent = state.own(state.inode(record.parent))
    _insert(state, parent, record.name, inode, time, cookie)
    if inode.is_dir:
        parent.nlink += 1
    state.add(inode)
    return inode


def create(state: State, time: int, record: j.Create, cookie: int = 0) -> Inode:
    """A new regular file under a new name, open for writing; ``cookie`` as for :func:`make`."""
    ino = record.ino
    inode = new_inode(state, ino, record.mode, record.uid, record.gid, 0, time)
    if record.xattrs:
        inode.xattrs = dict(fmt.decode_xattrs(record.xattrs))
        state.weigh(inode)
    inode.links = ((record.parent, record.name),)
    _insert(state, state.own(state.inode(record.parent)), record.name, inode, time, cookie)
    state.add(inode)
    state.opens[ino] = (1, 1)
    return inode


def tmpfile(state: State, time: int, record: j.Tmpfile) -> Inode:
    """A new file without a name."""
    inode = new_inode(state, record.ino, record.mode, record.uid, record.gid, 0, time)
    if record.xattrs:
        inode.xattrs = dict(fmt.decode_xattrs(record.xattrs))
        state.weigh(inode)
    inode.nlink = 0
    state.add_orphan(inode)
    state.linkable.add(record.ino)
    state.next_ino = max(state.next_ino, record.ino + 1)
    return inode


def link(state: State, time: int, record: j.Link, cookie: int = 0) -> Inode:
    """One more name; ``cookie`` as for :func:`make`."""
    ino = record.ino
    inode = state.own(state.inode(ino))
    if ino in state.orphans:
        del state.orphans[ino]
        state.linkable.discard(ino)
        state.live[ino] = inode
        state.files += 1
    inode.nlink += 1
    inode.ctime = time
    inode.add_link((record.parent, record.name))
    state.weigh(inode)
    _insert(state, state.own(state.inode(record.parent)), record.name, inode, time, cookie)
    return inode


def unlink(state: State, time: int, record: j.Unlink, entry: Dirent | None = None) -> None:
    """A name goes; so does the inode with its last name. ``entry``: the name's, when it has just been looked up."""
    parent = state.own(state.inode(record.parent))
    inode = state.own(state.inode(record.ino))
    _remove(state, parent, record.name, record.ino, time, entry)
    _lose_name(state, parent, inode, record.name, bool(record.orphan), time)


def rename(state: State, time: int, record: j.Rename, cookie: int = 0, entry: Dirent | None = None) -> None:
    """A name moves, or two names change places; ``cookie`` as for :func:`make`, ``entry`` as for :func:`unlink`."""
    old_parent = state.own(state.inode(record.parent))
    new_parent = state.own(state.inode(record.new_parent))
    inode = state.own(state.inode(record.ino))
    if record.flags & RENAME_EXCHANGE:
        other = state.own(state.inode(record.replaced))
        _point(state, old_parent, record.name, other, time)
        _point(state, new_parent, record.new_name, inode, time)
        _move(state, other, (record.new_parent, record.new_name), (record.parent, record.name), time)
        _move(state, inode, (record.parent, record.name), (record.new_parent, record.new_name), time)
        return
    if record.replaced:
        gone = state.own(state.inode(record.replaced))
        _point(state, new_parent, record.new_name, inode, time)
        _lose_name(state, new_parent, gone, record.new_name, bool(record.orphan), time)
    else:
        _insert(state, new_parent, record.new_name, inode, time, cookie)
    if record.whiteout:
        white = new_inode(state, record.whiteout, stat.S_IFCHR, record.uid, record.gid, 0, time)
        white.links = ((record.parent, record.name),)
        _point(state, old_parent, record.name, white, time)
        state.add(white)
    else:
        _remove(state, old_parent, record.name, record.ino, time, entry)
    _move(state, inode, (record.parent, record.name), (record.new_parent, record.new_name), time)


def _insert(state: State, parent: Inode, name: bytes, inode: Inode, time: int, cookie: int) -> None:
    directory = state.own_directory(parent)
    directory.insert(Dirent(cookie or free_cookie(directory, name), inode.ino, inode.mode >> 12, name))
    parent.mtime = parent.ctime = time


def _point(state: State, parent: Inode, name: bytes, inode: Inode, time: int) -> None:
    """Let an existing name point at another inode; its cookie stays."""
    directory = state.own_directory(parent)
    entry = directory.lookup(name)
    if entry is None:
        raise Corrupt("journal: a name that should exist does not")
    directory.put(Dirent(entry.cookie, inode.ino, inode.mode >> 12, name))
    parent.mtime = parent.ctime = time


def _remove(state: State, parent: Inode, name: bytes, ino: int, time: int, entry: Dirent | None) -> None:
    directory = state.own_directory(parent)
    entry = entry or directory.lookup(name)
    if entry is None or entry.ino != ino:
        raise Corrupt("journal: a name does not hold the inode it should")
    directory.remove(entry)
    parent.mtime = parent.ctime = time


def _lose_name(state: State, parent: Inode, inode: Inode, name: bytes, orphan: bool, time: int) -> None:
    inode.ctime = time
    inode.drop_link((parent.ino, name))
    if inode.is_dir:
        parent.nlink -= 1
        inode.nlink = 0
    else:
        inode.nlink -= 1
    if not inode.nlink:
        state.drop(inode, orphan)


def _move(state: State, inode: Inode, old: tuple[int, bytes], new: tuple[int, bytes], time: int) -> None:
    inode.ctime = time
    inode.drop_link(old)
    inode.add_link(new)
    if inode.is_dir and old[0] != new[0]:
        state.own(state.inode(old[0])).nlink -= 1
        state.own(state.inode(new[0])).nlink += 1


def set_attributes(state: State, time: int, record: j.SetAttributes) -> Inode:
    """Attributes as the record says, then what follows from them."""
    inode = state.own(state.inode(record.ino))
    valid = record.valid
    if valid & j.SET_SIZE:
        _truncate(state, inode, record.size, time)
        drop_capability(inode)
    if valid & (j.SET_UID | j.SET_GID):
        if valid & j.SET_UID:
            inode.uid = record.uid
        if valid & j.SET_GID:
            inode.gid = record.gid
        if not inode.is_dir:
            clear_set_id(inode)
            drop_capability(inode)
    if valid & j.SET_KILL_PRIV:
        clear_set_id(inode)
    if valid & j.SET_MODE:
        inode.mode = inode.mode & ~0o7777 | record.mode & 0o7777
        _chmod_acl(inode)
    if valid & j.SET_ATIME:
        inode.atime = record.atime
    if valid & j.SET_MTIME:
        inode.mtime = record.mtime
    inode.ctime = record.ctime if valid & j.SET_CTIME else time
    return inode


def _chmod_acl(inode: Inode) -> None:
    entries = acl.decode(inode.xattrs.get(acl.ACCESS, b""))
    if entries is not None:
        inode.xattrs = {**inode.xattrs, acl.ACCESS: acl.encode(acl.with_mode(entries, inode.mode))}


def clear_set_id(inode: Inode) -> None:
    """Set-user-id goes, set-group-id too unless it only marks mandatory locking (no group execute)."""
    mode = inode.mode & ~stat.S_ISUID
    inode.mode = mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def drop_capability(inode: Inode) -> None:
    """File capabilities do not survive a change of content or owner."""
    if CAPABILITY in inode.xattrs:
        inode.xattrs = {name: value for name, value in inode.xattrs.items() if name != CAPABILITY}


def _truncate(state: State, inode: Inode, size: int, time: int) -> None:
    data = state.own_file(inode)
    if size < inode.size:
        first, last = -(-size // PAGE), -(-inode.size // PAGE)
        if first < last:
            freed = 8 * data.allocated(first, last)
            inode.blocks -= freed
            state.sectors -= freed
        data.truncate(size)
    inode.size = size
    inode.mtime = time


def write(
    state: State,
    time: int,
    ino: int,
    offset: int,
    length: int,
    kill_priv: int,
    source: Source,
    position: int,
    fresh: int,
) -> Inode:
    """``length`` bytes at ``offset`` now lie in ``source`` at ``position``; ``fresh`` pages of them are new."""
    inode = state.known[ino]
    if inode.owner is not state.owner:
        inode = state.own(inode)
    end = offset + length
    state.own_file(inode).put(offset, end, source, position)
    if fresh:
        inode.blocks += 8 * fresh
        state.sectors += 8 * fresh
    if end > inode.size:
        inode.size = end
    inode.mtime = inode.ctime = time
    if kill_priv:
        clear_set_id(inode)
    if inode.xattrs:
        drop_capability(inode)
    return inode


def clone_range(state: State, time: int, record: j.CloneRange) -> Inode:
    """A range of one file shows what a range of another shows; nothing is copied."""
    origin, source_end = state.file(state.inode(record.source)), record.source_offset + record.length
    found = list(pieces(origin, record.source_offset, source_end, state.owner))
    inode = state.own(state.inode(record.ino))
    data = state.own_file(inode)
    end, shift = record.offset + record.length, record.offset - record.source_offset
    fresh = 8 * fresh_pages(data, record.offset, end)
    for start, stop, source, position in found:
        data.put(start + shift, stop + shift, source, position)
        if isinstance(source, Shared):
            data.shared = max(data.shared, source.depth)
    state.cloned += len(found)
    inode.blocks += fresh
    state.sectors += fresh
    inode.size = max(inode.size, end)
    inode.mtime = inode.ctime = time
    clear_set_id(inode)
    drop_capability(inode)
    return inode


def allocate(state: State, time: int, record: j.Allocate) -> None:
    """fallocate. Nothing is reserved, so allocation only sets the size; punched pages become holes."""
    inode = state.own(state.inode(record.ino))
    data = state.own_file(inode)
    end = record.offset + record.length
    if record.mode & (PUNCH_HOLE | ZERO_RANGE):
        freed = 8 * data.punch(record.offset, end, inode.size)
        inode.blocks -= freed
        state.sectors -= freed
    if not record.mode & KEEP_SIZE and end > inode.size:
        inode.size = end
    if record.kill_priv:
        clear_set_id(inode)
    drop_capability(inode)
    inode.mtime = inode.ctime = time


def set_xattr(state: State, time: int, record: j.SetXattr) -> None:
    """An extended attribute, and the mode that follows from an access ACL."""
    inode = state.own(state.inode(record.ino))
    inode.xattrs = dict(inode.xattrs)
    if record.value or record.name not in (acl.ACCESS, acl.DEFAULT):
        inode.xattrs[record.name] = record.value
        state.weigh(inode)
    else:
        inode.xattrs.pop(record.name, None)
    inode.mode = inode.mode & ~0o7777 | record.mode & 0o7777
    inode.ctime = time


def remove_xattr(state: State, time: int, record: j.RemoveXattr) -> None:
    """An extended attribute goes."""
    inode = state.own(state.inode(record.ino))
    inode.xattrs = {name: value for name, value in inode.xattrs.items() if name != record.name}
    inode.ctime = time


def opened(state: State, time: int, record: j.Opened) -> None:
    """Whether the inode is open now, and open for writing."""
    if record.open:
        state.opens[record.ino] = (record.open, record.writable)
    else:
        state.opens.pop(record.ino, None)


def writers(state: State, time: int, record: j.Writers) -> None:
    """What was open for writing when this layer began."""
    for at in range(0, len(record.inos), 8):
        state.opens[int.from_bytes(record.inos[at : at + 8], "little")] = (1, 1)


def orphan(state: State, record: j.Orphan, source: Source, position: int) -> None:
    """An inode without a name enters this layer; ``position`` is where ``record.data`` lies.

    It does so with its last byte: who wrote it may have died before that, and then what is known of it stays.
    """
    if record.record:
        inode = thaw(state.blocks, state.geometry, record.ino, fmt.decode_inode(record.record))
        state.arriving = (inode, bool(record.linkable), inode.blocks // 8)
    if state.arriving is None or state.arriving[0].ino != record.ino:
        return
    inode, linkable, missing = state.arriving
    if record.data:
        end = record.offset + len(record.data)
        state.own_file(inode).put(record.offset, end, source, position)
        missing -= -(-end // PAGE) - record.offset // PAGE
    state.arriving = None if missing <= 0 else (inode, linkable, missing)
    if missing <= 0:
        state.add_orphan(inode)
        if linkable:
            state.linkable.add(record.ino)


def orphan_end(state: State, time: int, record: j.OrphanEnd) -> None:
    """The last descriptor of an orphan closed."""
    state.end_orphan(record.ino)


_EFFECTS: Final[dict[type, Callable[[State, int, Any], object]]] = {
    j.Make: make,
    j.Create: create,
    j.Tmpfile: tmpfile,
    j.Link: link,
    j.Unlink: unlink,
    j.Rename: rename,
    j.SetAttributes: set_attributes,
    j.Allocate: allocate,
    j.SetXattr: set_xattr,
    j.RemoveXattr: remove_xattr,
    j.Opened: opened,
    j.OrphanEnd: orphan_end,
    j.Writers: writers,
}

_ORPHANS_TOO: Final = (j.SetAttributes, j.Allocate, j.SetXattr, j.RemoveXattr, j.Opened)


def replay(state: State, time: int, record: j.Record, source: Source, position: int) -> None:
    """Do to ``state`` what ``record`` did when it was journaled; markers and carried facts do nothing.

    ``position`` is the offset of the record in ``source``. Changes of an inode that the state does not
    have are those of an orphan whose state was not carried along: nothing can see them any more.
    """
    if isinstance(record, j.CloneRange) and not record.data:
        if state.find(record.ino) is not None:
            clone_range(state, time, record)
        return
    if isinstance(record, j.Write | j.CloneRange):
        inode = state.find(record.ino)
        if inode is not None:
            kill = record.kill_priv if isinstance(record, j.Write) else 1
            data_at = position + j.HEAD_BYTES + j.body_bytes(type(record))
            length = len(record.data)
            fresh = fresh_pages(state.file(inode), record.offset, record.offset + length)
            write(state, time, record.ino, record.offset, length, kill, source, data_at, fresh)
        return
    if isinstance(record, j.Orphan):
        orphan(state, record, source, position + j.HEAD_BYTES + j.body_bytes(j.Orphan) + len(record.record))
        return
    effect = _EFFECTS.get(type(record))
    if effect is None or (type(record) in _ORPHANS_TOO and state.find(record.ino) is None):  # type: ignore[union-attr]
        return
    effect(state, time, record)
