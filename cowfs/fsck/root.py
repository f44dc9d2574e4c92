"""What must hold of one root: its inode table, its directories, and how they fit together."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cowfs.blocks.api import BlockSource
from cowfs.errors import CowfsError
from cowfs.formats.inode import TREE, decode_dirent, decode_inode
from cowfs.fsck.inode import Seen, check_inode
from cowfs.fsck.problem import Problem, shown
from cowfs.geometry import ROOT_INO, SECTOR, Geometry
from cowfs.tree import radix
from cowfs.tree.content import record_links
from cowfs.tree.names import directory_key
from cowfs.tree.root import read_root

_DIRECTORY = stat.S_IFDIR >> 12
_PATH_DEPTH = 64

Link = tuple[int, bytes]


class Size(NamedTuple):
    """What the control log says of a root: its inodes, and the bytes that they have allocated."""

    inodes: int
    logical_bytes: int


@dataclass(slots=True)
class _Inode:
    """What the rest of a root must agree with. ``links``: what the record says; ``named``: what directories say."""

    kind: int
    nlink: int
    links: tuple[Link, ...]
    pointer: bytes
    named: list[Link] = field(default_factory=list)
    subdirectories: list[int] = field(default_factory=list)


def check_root(
    blocks: BlockSource,
    root: bytes,
    geometry: Geometry,
    *,
    data: bool = True,
    next_ino: int | None = None,
    seen: Seen | None = None,
    sizes: Iterable[Size] = (),
) -> Iterator[Problem]:
    """Everything that is wrong with one root.

    ``data``: also read every block of file data. ``next_ino``: the layer's; no inode may have it or a higher one.
    ``seen``: a dictionary that is shared by the checks of several roots, so that common data is read once. Memory
    is some hundred bytes per inode. ``sizes``: what layers with this root say of it.
    """
    name = f"root {root.hex()}"
    try:
        table = read_root(blocks, root)
        problems = list(radix.check(blocks, table, geometry, inline=False))
    except CowfsError as error:
        yield Problem(name, error.message)
        return
    yield from (Problem(name, f"inode table: {problem}") for problem in problems)
    known = ({} if seen is None else seen) if data else None
    check = _Check(blocks, geometry, name, table, known, next_ino)
    yield from check.records()
    yield from check.directories()
    yield from check.connections()
    yield from check.sizes(sizes)


class _Check:
    def __init__(
        self, blocks: BlockSource, geometry: Geometry, name: str, table: bytes, seen: Seen | None, next_ino: int | None
    ) -> None:
        self._blocks = blocks
        self._geometry = geometry
        self._name = name
        self._table = table
        self._seen = seen
        self._next_ino = next_ino
        self._inodes: dict[int, _Inode] = {}
        self._allocated: int | None = 0  # bytes; None when a record cannot be read
        self._unread: set[int] = set()  # directories whose entries are not all known

    def records(self) -> Iterator[Problem]:
        """Each record by itself; collects what :meth:`directories` and :meth:`connections` need."""
        try:
            for ino, value in radix.scan(self._blocks, self._table):
                for what in self._record(ino, value):
                    yield self._problem(ino, what)
        except CowfsError as error:
            self._allocated = None
            yield Problem(self._name, f"inode table: {error.message}")

    def sizes(self, said: Iterable[Size]) -> Iterator[Problem]:
        """Whether the layers know how large the root is; quotas count on from there."""
        if self._allocated is not None:
            real = Size(len(self._inodes), self._allocated)
            for size in said:
                if size != real:
                    what = f"{size.inodes} inodes of {size.logical_bytes} bytes, not {real.inodes} of"
                    yield Problem(self._name, f"a layer says it has {what} {real.logical_bytes}")

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
        try:
            links = record_links(self._blocks, record)
        except CowfsError:
            links = ()  # check_inode has said so
        kind = record.mode >> 12
        pointer = record.content.data if kind == _DIRECTORY and record.content.kind == TREE else b""
        self._inodes[ino] = _Inode(kind, record.nlink, links, pointer)

    def directories(self) -> Iterator[Problem]:
        """Every entry of every directory."""
        for ino, inode in self._inodes.items():
            if inode.pointer:
                for what in self._directory(ino, inode):
                    yield self._problem(ino, what)

    def _directory(self, ino: int, inode: _Inode) -> Iterator[str]:
        names: dict[int, set[bytes]] = {}  # key -> names, only of the key at hand
        try:
            for cookie, value in radix.scan(self._blocks, inode.pointer):
                try:
                    name, entry = decode_dirent(cookie, value)
                except CowfsError as error:
                    yield f"cookie {cookie:#x}: {error.message}"
                    self._unread.add(ino)
                    continue
                key = cookie >> 8
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
            self._unread.add(ino)

    def _entry(self, parent: int, directory: _Inode, name: bytes, ino: int, kind: int) -> Iterator[str]:
        target = self._inodes.get(ino)
        if target is None:
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
        if ROOT_INO not in self._inodes:
            yield Problem(self._name, "it has no root directory")
        for ino, inode in self._inodes.items():
            for what in self._connected(ino, inode):
                yield self._problem(ino, what)
            if inode.kind == _DIRECTORY and ino not in reached:
                yield self._problem(ino, "a directory that cannot be reached from the root")

    def _connected(self, ino: int, inode: _Inode) -> Iterator[str]:
        said, real = set(inode.links), set(inode.named)
        for parent, name in sorted(real - said):
            yield f"entry {shown(name)} of directory {parent} is not among its links"
        for parent, name in sorted(said - real):
            if parent not in self._unread:
                yield f"its link {shown(name)} in directory {parent} does not exist"
        right = 2 + len(inode.subdirectories) if inode.kind == _DIRECTORY else len(inode.named)
        if inode.nlink != right and ino not in self._unread and not {p for p, _ in inode.links} & self._unread:
            yield f"link count {inode.nlink}, not {right}"
        if ino == ROOT_INO:
            if inode.links or inode.named:
                yield "the root directory has a name"
        elif not inode.named:
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

    def _problem(self, ino: int, what: str) -> Problem:
        path = self._path(ino)
        return Problem(f"{self._name} inode {ino}{' ' + shown(path) if path else ''}", what)

    def _path(self, ino: int) -> bytes:
        """A path of the inode by the back references, as far as they can be read; empty for the root."""
        parts: list[bytes] = []
        while ino != ROOT_INO and len(parts) < _PATH_DEPTH:
            try:
                value = radix.lookup(self._blocks, self._table, ino)
                links = record_links(self._blocks, decode_inode(value)) if value is not None else ()
            except CowfsError:
                links = ()
            if not links:
                parts.append(b"?")
                break
            ino, name = links[0]
            parts.append(name)
        return b"/".join(reversed(parts))
