"""Whole subtrees removed and cloned in place: what ``rm -r`` and ``cp -a`` do, without a round trip for each file.

Both are jobs that are done in parts. Between two steps of a part files are served, between two parts verbs are carried
out; a restore, or a move to another process, ends a job, and like those programs it may be cut off in the middle.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NoSpace, NotFound
from cowfs.geometry import PAGE, ROOT_INO
from cowfs.view.inode import Caller, Inode, SetAttr
from cowfs.view.view import View

if TYPE_CHECKING:
    from cowfs.workspace import Workspace

STEP: Final = 128
"""Files, or pieces of large ones, at most between two moments in which others are served."""

PART: Final = 20_000
"""Names at most between two moments in which verbs are carried out."""

_FIRST_COOKIE: Final = 2
_AGAIN_MAX: Final = 100
_PIECES_AT_ONCE: Final = 16
_ROOT: Final = Caller()


class Removed(NamedTuple):
    """A name that is gone. ``left``: the inode has other names, or is open."""

    parent: int
    name: bytes
    ino: int
    is_dir: bool
    left: bool


class Part(NamedTuple):
    """What was done of a job: so many ``names``. ``done``: all of it. ``pressed``: settling lags behind, so that going
    on should wait."""

    names: int
    done: bool
    pressed: bool


class Job(Protocol):
    """What is under way. ``done``: nothing is left."""

    done: bool

    def step(self) -> int:
        """Do a little more, holding the workspace's lock for that; how many names it was.

        Raises Busy when the workspace was restored meanwhile, and what the job does.
        """

    def end(self) -> None:
        """It was done, or given up."""


def part(workspace: Workspace, token: str, begun: Job | None) -> Part:
    """Do a part of ``begun``, or of the job that an earlier part has left under ``token``.

    Raises Busy when there is none: this process has not begun it.
    """
    job = begun or workspace.jobs.pop(token, None)
    if job is None:
        raise Busy("another process serves the workspace now: the rest is not done", hint="Ask for it again.")
    count, pressed = 0, False
    try:
        while count < PART and not job.done and not pressed:
            count += job.step()
            pressed = workspace.pressed() is not None
    except BaseException:
        job.end()
        raise
    if job.done:
        job.end()
    else:
        workspace.jobs[token] = job
    return Part(count, job.done, pressed)


class _Frame:
    """A directory under way: where it was when it was met, where its listing goes on. ``target``: its clone."""

    __slots__ = ("again", "cookie", "ino", "name", "parent", "target")

    def __init__(self, parent: int, name: bytes, ino: int, target: int = 0) -> None:
        self.parent = parent
        self.name = name
        self.ino = ino
        self.target = target
        self.cookie = _FIRST_COOKIE
        self.again = 0


def _check_same(workspace: Workspace, view: View) -> None:
    if workspace.view is not view:
        raise Busy("the workspace was restored meanwhile: the rest is not done", hint="Ask for it again if need be.")


class Removal:
    """Removes a file, or a directory with everything in it.

    Raises NotFound, Invalid (the root), Busy (something is mounted in it, or somebody goes on making files there).
    """

    def __init__(self, workspace: Workspace, path: bytes) -> None:
        _refuse_mounts(workspace, path)
        self._workspace = workspace
        self._frames: list[_Frame] = []
        with workspace.lock:
            self._view = workspace.view
            self._parent, self._name, inode = _find(self._view, path)
            if inode.is_dir:
                self._frames.append(_Frame(self._parent, self._name, inode.ino))
        self.done = False

    def step(self) -> int:
        """See :class:`Job`."""
        gone: list[Removed] = []
        try:
            with self._workspace.lock:
                _check_same(self._workspace, self._view)
                if self._frames:
                    self._some(gone)
                else:
                    self._file(gone)
                self.done = not self._frames
        finally:
            if gone and self._workspace.transport is not None:
                self._workspace.transport.removed(gone, self._parent)
        return len(gone)

    def end(self) -> None:
        """See :class:`Job`."""

    def _file(self, gone: list[Removed]) -> None:
        inode = self._view.lookup(self._parent, self._name)
        if inode is not None and not inode.is_dir:
            self._unlink(self._parent, self._name, inode, gone)

    def _some(self, gone: list[Removed]) -> None:
        view, frames = self._view, self._frames
        while frames and len(gone) < STEP:
            frame = frames[-1]
            found = view.state.find(frame.ino)
            if found is None or [*found.links] != [(frame.parent, frame.name)]:
                frames.pop()  # somebody has removed it, or moved it elsewhere: then it stays
                continue
            entries = list(islice(view.state.directory(found).entries(frame.cookie), STEP - len(gone)))
            for entry in entries:
                inode = view.state.inode(entry.ino)
                if inode.is_dir:
                    frames.append(_Frame(frame.ino, entry.name, entry.ino))
                    break
                self._unlink(frame.ino, entry.name, inode, gone)
                frame.cookie = entry.cookie
            if not entries:
                self._directory(found, gone)

    def _directory(self, inode: Inode, gone: list[Removed]) -> None:
        frame = self._frames[-1]
        if len(self._view.state.directory(inode)):  # made behind our back
            frame.cookie = _FIRST_COOKIE
            frame.again += 1
            if frame.again > _AGAIN_MAX:
                raise Busy("somebody goes on making files in what is to be removed", hint="Stop that, and try again.")
            return
        self._frames.pop()
        self._view.rmdir(frame.parent, frame.name, _ROOT)
        gone.append(Removed(frame.parent, frame.name, inode.ino, True, bool(self._view.is_open(inode.ino))))

    def _unlink(self, parent: int, name: bytes, inode: Inode, gone: list[Removed]) -> None:
        left = inode.nlink > 1 or bool(self._view.is_open(inode.ino))
        self._view.unlink(parent, name, _ROOT)
        gone.append(Removed(parent, name, inode.ino, False, left))


def _refuse_mounts(workspace: Workspace, path: bytes) -> None:
    wanted = [each for each in path.split(b"/") if each not in (b"", b".")]
    for point, _ in workspace.transport.mount_points() if workspace.transport is not None else ():
        if point.encode(errors="surrogateescape").split(b"/")[: len(wanted)] == wanted:
            raise Busy(f"something is mounted at {point}", hint="Unmount it first.")


class Clone:
    """Makes ``target`` the same as ``source``: attributes, times, hard links within it. Bytes are shared.

    Raises NotFound, Conflict (``target`` is there already), Invalid (it lies in ``source``), NoSpace, Busy (the tree
    changed meanwhile).
    """

    def __init__(self, workspace: Workspace, source: bytes, target: bytes) -> None:
        if workspace.transport is not None:
            workspace.transport.flush_writable()
        self._workspace = workspace
        self._frames: list[_Frame] = []
        self._made = 0
        self._twins: dict[int, int] = {}  # inodes with more names -> their clones
        self._pieces: Iterator[None] | None = None  # of a large file
        with workspace.lock:
            view = self._view = workspace.view
            _, _, origin = _find(view, source, root=True)
            self._parent, self._name = _place(view, target)
            if _is_below(view, self._parent, origin.ino):
                raise Invalid("a directory cannot be cloned into itself")
            try:
                self._one(origin, self._parent, self._name)
            except OSError as error:
                raise _refused(error) from error
        self.done = not self._frames and self._pieces is None

    def step(self) -> int:
        """See :class:`Job`."""
        with self._workspace.lock:
            _check_same(self._workspace, self._view)
            try:
                self._some()
            except OSError as error:
                raise _refused(error) from error
            self.done = not self._frames and self._pieces is None
        made, self._made = self._made, 0
        return made

    def end(self) -> None:
        """Tell the kernel of the new name."""
        if self._workspace.transport is not None:
            self._workspace.transport.made(self._parent, self._name)

    def _some(self) -> None:
        done = 0
        while done < STEP and (self._frames or self._pieces is not None):
            if self._pieces is not None:
                done += self._drain(self._pieces, STEP - done)
                continue
            frame = self._frames[-1]
            origin = self._view.state.inode(frame.ino)
            entries = list(islice(self._view.state.directory(origin).entries(frame.cookie), STEP - done))
            for entry in entries:
                frame.cookie = entry.cookie
                done += 1
                self._one(self._view.state.inode(entry.ino), frame.target, entry.name)
                if self._pieces is not None or self._frames[-1] is not frame:
                    break
            if not entries:
                self._frames.pop()
                self._attributes(origin, frame.target)

    def _one(self, origin: Inode, parent: int, name: bytes) -> None:
        """One more name; a directory's content, and the rest of a large file, come later."""
        view, mode = self._view, origin.mode
        self._made += 1
        if origin.is_dir:
            self._frames.append(_Frame(parent, name, origin.ino, view.mkdir(parent, name, 0o700, _ROOT).ino))
            return
        twin = self._twins.get(origin.ino)
        if twin is not None:
            view.link(twin, parent, name, _ROOT)
            return
        if stat.S_ISLNK(mode):
            made = view.symlink(parent, name, view.readlink(origin.ino), _ROOT)
        else:
            made = view.mknod(parent, name, stat.S_IFMT(mode) | 0o600, origin.rdev, _ROOT)
        if origin.nlink > 1:
            self._twins[origin.ino] = made.ino
        if stat.S_ISREG(mode):
            self._drain(self._content(origin.ino, made.ino), _PIECES_AT_ONCE)
        else:
            self._attributes(origin, made.ino)

    def _drain(self, pieces: Iterator[None], most: int) -> int:
        """Copy so many pieces of a file at most; how many it was."""
        done = sum(1 for _ in islice(pieces, most))
        self._pieces = pieces if done == most else None
        return done

    def _content(self, source: int, target: int) -> Iterator[None]:
        """Copies the file piece by piece, holes staying holes, and at the end its attributes."""
        view, at = self._view, 0
        while True:
            origin = view.state.inode(source)
            run = (
                next(view.state.file(origin).runs(at // PAGE, -(-origin.size // PAGE)), None)
                if at < origin.size
                else None
            )
            if run is None:
                break
            at = max(at, run[0] * PAGE)
            at += view.copy_range(source, at, target, at, min(run[1] * PAGE, origin.size) - at, _ROOT)
            yield
        if view.state.inode(target).size != origin.size:
            view.setattr(target, SetAttr(size=origin.size), _ROOT)
        self._attributes(origin, target)

    def _attributes(self, origin: Inode, target: int) -> None:
        """Owner and mode first: a change of owner takes capabilities away. What a default ACL gave goes."""
        view = self._view
        mode = None if stat.S_ISLNK(origin.mode) else origin.mode & 0o7777
        changes = SetAttr(mode=mode, uid=origin.uid, gid=origin.gid, atime=origin.atime, mtime=origin.mtime)
        view.setattr(target, changes, _ROOT)
        for key in [key for key in view.state.inode(target).xattrs if key not in origin.xattrs]:
            view.removexattr(target, key, _ROOT)
        for key, value in origin.xattrs.items():
            view.setxattr(target, key, value, 0, _ROOT)


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
