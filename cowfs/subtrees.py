"""Whole subtrees removed and cloned in place: what ``rm -r`` and ``cp -a`` do, without a round trip for each file.

Both go on in small steps, between which others are served; like those programs they may be cut off in the middle.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NoSpace, NotFound
from cowfs.geometry import PAGE, ROOT_INO
from cowfs.view.directory import Entry
from cowfs.view.inode import Caller, Inode, SetAttr
from cowfs.view.view import View

if TYPE_CHECKING:
    from cowfs.workspace import Workspace

STEP: Final = 128
"""Files at most between two moments in which others are served: 2 ms or so."""

_FIRST_COOKIE: Final = 2
_AGAIN_MAX: Final = 100
_ROOT: Final = Caller()


class Removed(NamedTuple):
    """A name that is gone. ``left``: the inode has other names, or is open."""

    parent: int
    name: bytes
    ino: int
    is_dir: bool
    left: bool


class _Frame:
    """A directory under way. ``target``: its clone."""

    __slots__ = ("again", "cookie", "ino", "name", "parent", "target")

    def __init__(self, parent: int, name: bytes, ino: int, target: int = 0) -> None:
        self.parent = parent
        self.name = name
        self.ino = ino
        self.target = target
        self.cookie = _FIRST_COOKIE
        self.again = 0


def remove(workspace: Workspace, path: bytes) -> int:
    """Remove a file, or a directory with everything in it; how many names went.

    Raises NotFound, Invalid (the root), Busy (something is mounted in it, or somebody goes on making files there).
    """
    refuse_mounts(workspace, path)
    with workspace.lock:
        parent, name, inode = _find(workspace.view, path)
        frames = [_Frame(parent, name, inode.ino)] if inode.is_dir else []
        if not frames:
            _tell(workspace, [_unlink(workspace.view, parent, name, inode)], parent)
            return 1
    count = 0
    while frames:
        gone: list[Removed] = []
        try:
            with workspace.lock:
                _remove_some(workspace.view, frames, gone)
        finally:
            _tell(workspace, gone, parent)
        count += len(gone)
    return count


def refuse_mounts(workspace: Workspace, path: bytes) -> None:
    """Raises Busy when something is mounted at or below ``path``."""
    wanted = [part for part in path.split(b"/") if part not in (b"", b".")]
    for point, _ in workspace.transport.mount_points() if workspace.transport is not None else ():
        if point.encode(errors="surrogateescape").split(b"/")[: len(wanted)] == wanted:
            raise Busy(f"something is mounted at {point}", hint="Unmount it first.")


def _tell(workspace: Workspace, gone: list[Removed], parent: int) -> None:
    if gone and workspace.transport is not None:
        workspace.transport.removed(gone, parent)


def _remove_some(view: View, frames: list[_Frame], gone: list[Removed]) -> None:
    while frames and len(gone) < STEP:
        frame = frames[-1]
        found = view.state.find(frame.ino)
        if found is None or not found.is_dir or not found.nlink:
            frames.pop()  # somebody else has removed it
            continue
        entries = list(islice(view.state.directory(found).entries(frame.cookie), STEP - len(gone)))
        for entry in entries:
            inode = view.state.inode(entry.ino)
            if inode.is_dir:
                frames.append(_Frame(frame.ino, entry.name, entry.ino))
                break
            gone.append(_unlink(view, frame.ino, entry.name, inode))
            frame.cookie = entry.cookie
        if not entries:
            _remove_directory(view, frames, found, gone)


def _remove_directory(view: View, frames: list[_Frame], inode: Inode, gone: list[Removed]) -> None:
    frame = frames[-1]
    if len(view.state.directory(inode)):  # made behind our back
        frame.cookie = _FIRST_COOKIE
        frame.again += 1
        if frame.again > _AGAIN_MAX:
            raise Busy("somebody goes on making files in what is to be removed", hint="Stop that, and try again.")
        return
    frames.pop()
    for parent, name in inode.links:  # where it is now
        view.rmdir(parent, name, _ROOT)
        gone.append(Removed(parent, name, inode.ino, True, bool(view.is_open(inode.ino))))
        if frames and frames[-1].ino == parent:
            return


def _unlink(view: View, parent: int, name: bytes, inode: Inode) -> Removed:
    left = inode.nlink > 1 or bool(view.is_open(inode.ino))
    view.unlink(parent, name, _ROOT)
    return Removed(parent, name, inode.ino, False, left)


def clone(workspace: Workspace, source: bytes, target: bytes) -> int:
    """Make ``target`` the same as ``source``: attributes, times, hard links within it; how many names were made.

    Bytes are shared. Raises NotFound, Conflict (``target`` is there already), Invalid (it lies in ``source``), NoSpace.
    """
    if workspace.transport is not None:
        workspace.transport.flush_writable()
    with workspace.lock:
        view = workspace.view
        _, _, origin = _find(view, source, root=True)
        parent, name = _place(view, target)
        if _is_below(view, parent, origin.ino):
            raise Invalid("a directory cannot be cloned into itself")
        job = _Clone(view)
    try:
        with workspace.lock:
            job.begin(origin, parent, name)
        while job.frames:
            with workspace.lock:
                job.step()
    except OSError as error:
        raise _refused(error) from error
    finally:
        if workspace.transport is not None:
            workspace.transport.made(parent, name)
    return job.count


class _Clone:
    def __init__(self, view: View) -> None:
        self.frames: list[_Frame] = []
        self.count = 0
        self._view = view
        self._twins: dict[int, int] = {}  # inodes with more names -> their clones

    def begin(self, origin: Inode, parent: int, name: bytes) -> None:
        self._one(origin, parent, name)

    def step(self) -> None:
        """Clone some more entries of the directory under way."""
        frame = self.frames[-1]
        view, done = self._view, 0
        origin = view.state.inode(frame.ino)
        entries: Iterator[Entry] = view.state.directory(origin).entries(frame.cookie)
        for entry in list(islice(entries, STEP)):
            frame.cookie = entry.cookie
            done += 1
            if self._one(view.state.inode(entry.ino), frame.target, entry.name):
                return
        if not done:
            self.frames.pop()
            self._attributes(origin, frame.target)

    def _one(self, origin: Inode, parent: int, name: bytes) -> bool:
        """Whether it was a directory, with which to go on."""
        view, mode = self._view, origin.mode
        self.count += 1
        if origin.is_dir:
            made = view.mkdir(parent, name, 0o700, _ROOT)
            self.frames.append(_Frame(parent, name, origin.ino, made.ino))
            return True
        twin = self._twins.get(origin.ino)
        if twin is not None:
            view.link(twin, parent, name, _ROOT)
            return False
        if stat.S_ISLNK(mode):
            made = view.symlink(parent, name, view.readlink(origin.ino), _ROOT)
        else:
            made = view.mknod(parent, name, stat.S_IFMT(mode) | 0o600, origin.rdev, _ROOT)
        if stat.S_ISREG(mode) and origin.size:
            self._content(origin, made.ino)
        if origin.nlink > 1:
            self._twins[origin.ino] = made.ino
        self._attributes(origin, made.ino)
        return False

    def _content(self, origin: Inode, target: int) -> None:
        view, data = self._view, self._view.state.file(origin)
        for first, end in list(data.runs(0, -(-origin.size // PAGE))):
            at, stop = first * PAGE, min(end * PAGE, origin.size)
            while at < stop:
                at += view.copy_range(origin.ino, at, target, at, stop - at, _ROOT)
        if view.state.inode(target).size != origin.size:
            view.setattr(target, SetAttr(size=origin.size), _ROOT)

    def _attributes(self, origin: Inode, target: int) -> None:
        link = stat.S_ISLNK(origin.mode)
        for key, value in origin.xattrs.items():
            self._view.setxattr(target, key, value, 0, _ROOT)
        mode = None if link else origin.mode & 0o7777
        changes = SetAttr(mode=mode, uid=origin.uid, gid=origin.gid, atime=origin.atime, mtime=origin.mtime)
        self._view.setattr(target, changes, _ROOT)


def _find(view: View, path: bytes, *, root: bool = False) -> tuple[int, bytes, Inode]:
    """(parent, name, inode) of a path from the root; symlinks on the way are not followed. Raises NotFound, Invalid."""
    parent, name, inode = ROOT_INO, b"", view.state.inode(ROOT_INO)
    for part in path.split(b"/"):
        if part in (b"", b"."):
            continue
        found = view.lookup(inode.ino, part) if inode.is_dir and part != b".." else None
        if found is None:
            raise NotFound(f"no such file in the workspace: {path.decode(errors='backslashreplace')}")
        parent, name, inode = inode.ino, part, found
    if not name and not root:
        raise Invalid("the root of a workspace stays", hint="Name something in it, or remove the workspace.")
    return parent, name, inode


def _place(view: View, path: bytes) -> tuple[int, bytes]:
    """(directory, free name) of a path. Raises NotFound, Conflict, Invalid."""
    above, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise Invalid("the name of a clone is missing")
    _, _, directory = _find(view, above, root=True)
    if not directory.is_dir:
        raise NotFound(f"not a directory: {above.decode(errors='backslashreplace')}")
    if view.lookup(directory.ino, name) is not None:
        raise Conflict(f"{path.decode(errors='backslashreplace')} exists already")
    return directory.ino, name


def _is_below(view: View, ino: int, top: int) -> bool:
    while ino != top:
        links = view.state.inode(ino).links
        if not links:
            return False
        ino = links[0][0]
    return True


def _refused(error: OSError) -> CowfsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for the rest of the clone: {error.strerror}", hint="Remove what was cloned.")
    if error.errno in (errno.ESTALE, errno.ENOENT, errno.EEXIST, errno.ENOTDIR):
        return Busy(
            f"the tree changed while it was cloned: {error.strerror}", hint="Remove what was cloned, try again."
        )
    return Invalid(f"cannot be cloned: {error.strerror}")
