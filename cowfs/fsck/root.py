"""What must hold of one root: its inode table, its directories, and how they fit together.

What cannot be read is no further evidence: entries, links and counts that depend on it are not complained of, but named
as what the damaged block affects, as far as names are known from what is left.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cowfs.blocks.api import BlockSource
from cowfs.errors import CowfsError
from cowfs.formats.inode import TREE, decode_dirent, decode_inode
from cowfs.fsck.inode import Seen, check_inode
from cowfs.fsck.problem import AFFECTED_MAX, Problem, shown
from cowfs.fsck.watched import Lost, Watched, scan_around
from cowfs.geometry import ROOT_INO, SECTOR, Geometry
from cowfs.tree.content import record_links
from cowfs.tree.names import directory_key
from cowfs.tree.root import read_root

_DIRECTORY = stat.S_IFDIR >> 12
_PATH_DEPTH = 4096

Link = tuple[int, bytes]


class Size(NamedTuple):
    """What the control log says of a root: its inodes, and the bytes that they have allocated."""

    inodes: int
    logical_bytes: int


@dataclass(slots=True)
class _Inode:
    """What the rest of a root must agree with. ``links``: what the record says; ``named``: what directories say.

    ``unread``: its links cannot be read, or, of a directory, not all of its entries. ``blame``: blocks it lacks.
    """

    kind: int
    nlink: int
    links: tuple[Link, ...]
    pointer: bytes
    named: list[Link] = field(default_factory=list)
    subdirectories: list[int] = field(default_factory=list)
    lost_directories: int = 0
    unread: bool = False
    blame: set[bytes] = field(default_factory=set)


def check_root(
    blocks: BlockSource,
    root: bytes,
    geometry: Geometry,
    *,
    data: bool = True,
    next_ino: int | None = None,
    seen: Seen | None = None,
    refs: Sequence[str] = (),
    sizes: Iterable[Size] = (),
) -> Iterator[Problem]:
    """Everything that is wrong with one root.

    ``data``: also read every block of file data. ``next_ino``: the layer's; no inode may have it or a higher one.
    ``seen``: a dictionary that is shared by the checks of several roots, so that common data is read once. Memory
    is some hundred bytes per inode. ``refs``: how the user calls this state. With a ``Watched`` for ``blocks``, damaged
    blocks are noted there and not reported here. ``sizes``: what layers with this root say of it.
    """
    name = f"root {root.hex()}"
    watched = blocks if isinstance(blocks, Watched) else Watched(blocks)
    check = _Check(watched, geometry, name, ({} if seen is None else seen) if data else None, next_ino, refs)
    watched.hits.clear()
    try:
        check.table = read_root(watched, root)
        problems = list(watched.check_tree(check.table, geometry, inline=False))
        yield from (Problem(name, f"inode table: {problem}", "tree") for problem in problems)
        yield from check.records()
        yield from check.directories()
        yield from check.connections()
        yield from check.sizes(sizes)
    except CowfsError as error:
        if root in watched.hits:
            check.blame({root}, "everything")
        else:
            yield Problem(name, error.message, "root")
    if watched is not blocks:
        yield from watched.problems()


class _Check:
    def __init__(
        self,
        blocks: Watched,
        geometry: Geometry,
        name: str,
        seen: Seen | None,
        next_ino: int | None,
        refs: Sequence[str],
    ) -> None:
        self.table = b""
        self._blocks = blocks
        self._geometry = geometry
        self._name = name
        self._seen = seen
        self._next_ino = next_ino
        self._refs = refs
        self._inodes: dict[int, _Inode] = {}
        self._lost: list[Lost] = []  # inode numbers whose records cannot be read
        self._entries_of_lost: dict[int, Link] = {}
        self._allocated: int | None = 0  # bytes; None when a record cannot be read

    def blame(self, ids: set[bytes], path: str) -> None:
        """Damaged blocks are needed by a path of this state."""
        for id_ in ids:
            for ref in self._refs or (self._name,):
                self._blocks.blame(id_, f"{ref}: {path}")

    def records(self) -> Iterator[Problem]:
        """Each record by itself; collects what :meth:`directories` and :meth:`connections` need."""
        found: list[tuple[int, str]] = []  # paths are known when all records are
        for ino, value in scan_around(self._blocks, self.table, self._lost):
            self._blocks.hits.clear()
            found += [(ino, what) for what in self._record(ino, value)]
            if ino in self._inodes:
                self._inodes[ino].blame |= self._blocks.hits
        for ino, what in found:
            yield self._problem(ino, what, "inode")

    def sizes(self, said: Iterable[Size]) -> Iterator[Problem]:
        """Whether the layers know how large the root is; quotas count on from there."""
        if self._allocated is not None and not self._lost:
            real = Size(len(self._inodes), self._allocated)
            for size in said:
                if size != real:
                    what = f"{size.inodes} inodes of {size.logical_bytes} bytes, not {real.inodes} of"
                    yield Problem(self._name, f"a layer says it has {what} {real.logical_bytes}", "catalog-layer")

    def _record(self, ino: int, value: bytes) -> Iterator[str]:
        if ino < ROOT_INO or (self._next_ino is not None and ino >= self._next_ino):
            yield f"its number is not below the next one, {self._next_ino}"
        try:
            record = decode_inode(value)
        except CowfsError as error:
            self._allocated = None
            yield error.message
            return
        if self._allocated is not None:
            self._allocated += record.blocks * SECTOR
        yield from check_inode(self._blocks, self._geometry, ino, value, record, self._seen)
        links: tuple[Link, ...] = ()
        unread = False
        try:
            links = record_links(self._blocks, record)
        except CowfsError:
            unread = True  # check_inode has said so
        kind = record.mode >> 12
        pointer = record.content.data if kind == _DIRECTORY and record.content.kind == TREE else b""
        self._inodes[ino] = _Inode(kind, record.nlink, links, pointer, unread=unread)

    def directories(self) -> Iterator[Problem]:
        """Every entry of every directory."""
        for ino, inode in self._inodes.items():
            if inode.pointer:
                for what in self._directory(ino, inode):
                    yield self._problem(ino, what, "directory")

    def _directory(self, ino: int, inode: _Inode) -> Iterator[str]:
        names: dict[int, set[bytes]] = {}  # key -> names, only of the key at hand
        lost: list[Lost] = []
        try:
            for cookie, value in scan_around(self._blocks, inode.pointer, lost):
                try:
                    entry = decode_dirent(cookie, value)
                except CowfsError as error:
                    yield f"cookie {cookie:#x}: {error.message}"
                    inode.unread = True
                    continue
                key, name = cookie >> 8, entry.name
                if directory_key(name, self._geometry.key_bits) != key:
                    yield f"entry {shown(name)} lies under cookie {cookie:#x}, not under its key"
                if key not in names:
                    names = {key: set()}
                if name in names[key]:
                    yield f"entry {shown(name)} is there twice"
                names[key].add(name)
                yield from self._entry(ino, inode, name, entry.ino, entry.kind)
        except CowfsError as error:
            yield f"directory: {error.message}"
            inode.unread = True
        for _, _, ids in lost:
            inode.unread = True
            inode.blame |= ids

    def _entry(self, parent: int, directory: _Inode, name: bytes, ino: int, kind: int) -> Iterator[str]:
        target = self._inodes.get(ino)
        if target is None:
            for low, high, ids in self._lost:
                if low <= ino < high:
                    self._entries_of_lost.setdefault(ino, (parent, name))
                    directory.lost_directories += kind == _DIRECTORY
                    self.blame(set(ids), self._shown_path(ino))
                    return
            yield f"entry {shown(name)} names inode {ino}, which does not exist"
            return
        if target.kind != kind:
            yield f"entry {shown(name)} has type {kind}, inode {ino} has {target.kind}"
        target.named.append((parent, name))
        if target.kind == _DIRECTORY:
            directory.subdirectories.append(ino)

    def connections(self) -> Iterator[Problem]:
        """Back references, link counts, and that everything hangs on the root, once for directories."""
        reached = self._reach()
        if ROOT_INO not in self._inodes and not self._hidden(ROOT_INO):
            yield Problem(self._name, "it has no root directory", "inode")
        for low, _, ids in self._lost:
            if low <= ROOT_INO:
                self.blame(set(ids), "everything")
        for ino, inode in self._inodes.items():
            for what in self._connected(ino, inode):
                yield self._problem(ino, what, "links")
            above = any(self._hidden(parent) for parent, _ in inode.links) or inode.unread
            if inode.kind == _DIRECTORY and ino not in reached and not above and not self._lost:
                yield self._problem(ino, "a directory that cannot be reached from the root", "links")
            if inode.blame:
                self.blame(inode.blame, self._shown_path(ino))

    def _hidden(self, directory: int) -> bool:
        """Whether entries of a directory may be among what cannot be read."""
        inode = self._inodes.get(directory)
        if inode is not None:
            return inode.unread
        return any(low <= directory < high for low, high, _ in self._lost)

    def _connected(self, ino: int, inode: _Inode) -> Iterator[str]:
        said, real = set(inode.links), set(inode.named)
        if not inode.unread or inode.links:
            for parent, name in sorted(real - said):
                yield f"entry {shown(name)} of directory {parent} is not among its links"
        hidden = {link for link in said - real if self._hidden(link[0])}
        for parent, name in sorted(said - real - hidden):
            yield f"its link {shown(name)} in directory {parent} does not exist"
        for parent, name in sorted(hidden):
            if parent in self._inodes:
                self.blame(self._inodes[parent].blame, self._join(parent, name))
        lost = inode.lost_directories
        right = 2 + lost + len(inode.subdirectories) if inode.kind == _DIRECTORY else len(inode.named) + len(hidden)
        if inode.nlink != right and not inode.unread:
            yield f"link count {inode.nlink}, not {right}"
        if ino == ROOT_INO:
            if inode.links or inode.named:
                yield "the root directory has a name"
        elif not inode.named:
            if not hidden and not (inode.unread and self._lost):
                yield "no directory entry names it"
        elif inode.kind == _DIRECTORY and len(inode.named) > 1:
            yield f"a directory with {len(inode.named)} names"

    def _reach(self) -> set[int]:
        reached, pending = {ROOT_INO}, [ROOT_INO]
        while pending:
            inode = self._inodes.get(pending.pop())
            for child in inode.subdirectories if inode is not None else ():
                if child not in reached:
                    reached.add(child)
                    pending.append(child)
        return reached

    def _problem(self, ino: int, what: str, kind: str) -> Problem:
        path = self._path(ino)
        where = f"{self._name} inode {ino}{' ' + shown(path) if path else ''}"
        affected = tuple(f"{ref}: {_plain(path)}" for ref in self._refs)
        return Problem(where, what, kind, affected[:AFFECTED_MAX], len(affected))

    def _shown_path(self, ino: int) -> str:
        return _plain(self._path(ino)) if ino != ROOT_INO else "/"

    def _join(self, parent: int, name: bytes) -> str:
        above = self._path(parent)
        return _plain(above + b"/" + name if above else name)

    def _path(self, ino: int) -> bytes:
        """A path of the inode by names and back references, as far as they are known; empty for the root."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while ino != ROOT_INO and len(parts) < _PATH_DEPTH and ino not in seen:
            seen.add(ino)
            inode = self._inodes.get(ino)
            links = [*inode.links[:1], *inode.named[:1]] if inode is not None else []
            link = links[0] if links else self._entries_of_lost.get(ino)
            if link is None:
                parts.append(b"?")
                break
            ino, name = link
            parts.append(name)
        return b"/".join(reversed(parts))


def _plain(path: bytes) -> str:
    """A path for people: printable, on one line, without quotes where it needs none."""
    text = path.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else shown(path)
