"""The worker side: the layers and workspaces that one process serves.

Every argument and result can cross a socket: ids, plain tuples, control log operations. The owner of the
store (:mod:`cowfs.engine`) decides, a host carries out. Thread-safe: ``_lock`` guards the two tables;
each workspace has its own lock.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from cowfs.blocks.reader import BlockReader
from cowfs.diff import Difference, difference
from cowfs.errors import Busy, Corrupt, Invalid, NotFound
from cowfs.formats import control
from cowfs.formats.inode import EMPTY, Content, InodeRecord, encode_inode
from cowfs.geometry import PAGE, SECTOR
from cowfs.layers.journal import JournalFile, Position
from cowfs.layers.layer import Layer, Span
from cowfs.layers.replay import replay_span
from cowfs.remembered import Request
from cowfs.results import Change, Handle
from cowfs.subtrees import Clone, Part, Removal, part
from cowfs.tree import root as roots
from cowfs.tree.content import directory_content
from cowfs.tree.radix import count
from cowfs.view.directory import OverlayDirectory, StoredDirectory, lowest
from cowfs.view.file import OverlayFile, StoredFile
from cowfs.view.inode import Inode
from cowfs.view.room import NO_QUOTA, Quota
from cowfs.view.sharing import bottoms
from cowfs.view.state import KNOWN_LIMIT, State
from cowfs.workspace import Branch, CheckpointOrder, Env, Outcome, RestoreOrder, Workspace, WorkspaceStatistics

_BARE = InodeRecord(0, 0, 0, 1, 0, 0, 0, PAGE.bit_length() - 1, 0, 0, 0, 0, (), (), EMPTY)

KNOWN_TOTAL, KNOWN_LEAST = 400_000, 1_000
"""Resolved but unchanged inodes that all workspaces keep in memory together, and each one in any case."""

READ_BYTES = 1024 * 1024
"""Bytes that :meth:`Host.read` returns at most."""


class LayerSpec(NamedTuple):
    """A layer as the control log knows it. ``root`` is None until it is settled, ``logical_bytes`` 0."""

    id: str
    workspace: str
    parent: str | None
    spans: tuple[Span, ...]
    next_ino: int
    root: bytes | None
    logical_bytes: int = 0


Chain = tuple[LayerSpec, ...]
"""A layer and what it stands on, newest first, down to and including the first settled one."""


class BranchSpec(NamedTuple):
    """A workspace as the control log knows it; ``chain`` begins with the parent of the live layer.

    ``head_layer`` is the layer of the snapshot ``head``, ``quota`` what the workspace may take.
    """

    id: str
    live: str
    chain: Chain
    head: str | None
    next_ino: int
    position: tuple[int, int, int]
    head_layer: str | None = None
    quota: Quota = NO_QUOTA


class Point(NamedTuple):
    """A state to look at: a snapshot's layer, or the live state of ``workspace`` when ``chain`` is empty."""

    workspace: str
    chain: Chain


class Done(NamedTuple):
    """What a verb did; ``snapshot``: made by a checkpoint, or to undo a restore (None: nothing changed).

    ``damage``: of an opened workspace, why it is read-only, or nothing.
    """

    operations: tuple[control.Operation, ...]
    snapshot: str | None = None
    changed: int = 0
    handles: tuple[Handle, ...] = ()
    damage: str = ""


class Host:
    """Serves workspaces in this process."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.workspaces: dict[str, Workspace] = {}
        self._layers: dict[str, Layer] = {}
        self._lock = threading.RLock()

    def open(self, spec: BranchSpec, known: Mapping[str, LayerSpec]) -> Done:
        """Open a workspace and replay its journal; ``known``: the layers that its markers may name, and what
        these stand on, by id.

        Raises Corrupt when a block is damaged, or the journal contradicts itself.
        """
        with self._lock:
            if spec.id in self.workspaces:
                return Done(())
            branch = Branch(
                spec.id,
                spec.live,
                self._layer(spec.chain),
                spec.head,
                spec.next_ino,
                Position(*spec.position),
                spec.head_layer,
                spec.quota,
            )
            workspace, outcome = Workspace.open(self.env, branch, lambda layer: self._known(layer, known))
            for layer in outcome.layers:
                taken = self._layers.get(layer.id)
                if layer.id in known or (taken is not None and (taken.workspace != spec.id or taken.root is not None)):
                    raise Corrupt(f"journal {spec.id}: it makes layer {layer.id}, which exists")
            self.workspaces[spec.id] = workspace
            self._share()
            damage = workspace.journal.damage
            return self._took(outcome)._replace(damage=damage.message if damage is not None else "")

    def _known(self, layer: str, known: Mapping[str, LayerSpec]) -> Layer:
        chain = []
        at = known.get(layer)
        while at is not None:
            chain.append(at)
            at = known.get(at.parent) if at.root is None and at.parent is not None else None
        if chain:
            return self._layer(tuple(chain))
        if layer in self._layers:
            return self._layers[layer]
        raise Corrupt(f"journal: it goes back to layer {layer}, which is unknown")

    def close(self, workspace: str) -> None:
        """Let go of a workspace: its journal is synced. Unknown ones are ignored."""
        with self._lock:
            closed = self.workspaces.pop(workspace, None)
            self._share()
        if closed is not None:
            closed.journal.sync()
            with closed.lock, suppress(OSError):  # a full disk: only damage would be taken for a torn tail
                closed.journal.attest(self.env.clock())

    def _share(self) -> None:
        """Share out how many inodes are known."""
        each = min(max(KNOWN_TOTAL // max(len(self.workspaces), 1), KNOWN_LEAST), KNOWN_LIMIT)
        for workspace in self.workspaces.values():
            if workspace.known_limit != each:
                workspace.know(each)

    def workspace(self, workspace: str) -> Workspace:
        """The open workspace. Raises Busy: it exists, and has just moved, or its worker was replaced."""
        found = self.workspaces.get(workspace)
        if found is None:
            raise Busy(f"workspace {workspace} is not open here", hint="try again")
        return found

    def limit(self, workspace: str, quota: Quota) -> None:
        """From now on the open workspace has this quota. Raises Busy."""
        self.workspace(workspace).room.limit(quota)

    def usage(self, workspace: str) -> tuple[int, int]:
        """(bytes, inodes) of an open workspace, as quotas count. Raises Busy."""
        found = self.workspace(workspace)
        with found.lock:
            view = found.view.statistics()
        return view.used_bytes, view.inodes

    def shown(self) -> dict[str, bytes]:
        """Snapshots that are mounted: id -> the root that they are read from, known to the catalog or not."""
        return {}

    def is_open(self, workspace: str) -> bool:
        """Whether the workspace is open."""
        return workspace in self.workspaces

    def opened(self) -> list[str]:
        """Ids of the open workspaces."""
        return list(self.workspaces)

    def serving(self, workspace: str) -> bool:
        """Whether a transport serves the workspace."""
        found = self.workspaces.get(workspace)
        return found is not None and found.transport is not None

    def together(self, a: str, b: str) -> bool:
        """Whether the live states of two open workspaces can be looked at together."""
        return self.is_open(a) and self.is_open(b)

    def checkpoint(self, workspace: str, order: CheckpointOrder) -> Done:
        """See :meth:`Workspace.checkpoint`."""
        return self._took(self.workspace(workspace).checkpoint(order))

    def freeze(self, workspace: str, live: str) -> Done:
        """See :meth:`Workspace.freeze`."""
        return self._took(self.workspace(workspace).freeze(live))

    def restore(
        self, workspace: str, snapshot: str, chain: Chain, live: str, undo: CheckpointOrder | None, force: bool,
        request: Request | None = None, closed: bytes = b"",
    ) -> Done:  # fmt: skip
        """See :meth:`Workspace.restore`; ``chain`` begins with the snapshot's layer."""
        with self._lock:
            target = self._layer(chain)
        order = RestoreOrder(snapshot, target, live, undo, force, request, closed)
        return self._took(self.workspace(workspace).restore(order))

    def remove_path(self, workspace: str, token: str, path: bytes | None) -> Part:
        """A part of the :class:`cowfs.subtrees.Removal` of ``path``; None: go on with what ``token`` stands for."""
        found = self.workspace(workspace)
        return part(found, token, None if path is None else Removal(found, path))

    def clone_path(self, workspace: str, token: str, paths: tuple[bytes, bytes] | None) -> Part:
        """The same of a :class:`cowfs.subtrees.Clone`; ``paths``: source and target."""
        found = self.workspace(workspace)
        return part(found, token, None if paths is None else Clone(found, *paths))

    def _took(self, outcome: Outcome) -> Done:
        with self._lock:
            for layer in outcome.layers:
                self._keep(layer)
        return Done(outcome.operations, outcome.snapshot, outcome.changed, outcome.handles)

    def _keep(self, layer: Layer) -> None:
        self._layers[layer.id] = layer
        self.env.lag.froze(layer, self.env.clock())

    def wants_freeze(self) -> list[str]:
        """Workspaces whose live layer has become large."""
        return [workspace.id for workspace in list(self.workspaces.values()) if workspace.wants_freeze]

    def settled(self, layer_id: str, root: bytes, contents: Iterable[tuple[int, Content]]) -> None:
        """A layer has a root now: read from that, release what it held in memory."""
        with self._lock:
            layer = self._layers.get(layer_id)
        self.env.lag.progressed(self.env.clock())
        if layer is None or layer.delta is None:
            return
        for ino, content in contents:
            inode = layer.delta.get(ino)
            if inode is not None:
                self._settle_inode(inode, content)
        layer.settle(root, roots.read_root(self.env.blocks, root))
        self.env.lag.gone(layer_id)

    def stall(self, layers: Iterable[str]) -> None:
        """These layers cannot be settled, every other one can: their writers need not wait for that."""
        self.env.lag.stall(frozenset(layers))

    def _settle_inode(self, inode: Inode, content: Content) -> None:
        data, blocks = inode.data, self.env.blocks
        if isinstance(data, OverlayFile):
            data.settle(StoredFile(blocks, content, inode.size, inode.block_log2))
        elif isinstance(data, OverlayDirectory):
            data.settle(StoredDirectory(blocks, content.data, self.env.geometry.key_bits))

    def forget(self, layers: Iterable[str]) -> None:
        """Nothing will ask for these layers again."""
        with self._lock:
            for layer in layers:
                self._layers.pop(layer, None)
                self.env.lag.gone(layer)

    def forget_segments(self, segments: Iterable[int]) -> None:
        """These segments were deleted: keep none of them open."""
        if isinstance(self.env.blocks, BlockReader):
            for segment in segments:
                self.env.blocks.files.forget(segment)

    def unnamed(self) -> list[bytes]:
        """Inode records that refer to stored blocks which are read here, and which perhaps no root refers to.

        Those are of open files without a name, and of what was merged over several layers: it lies on the blocks of a
        root that was the newest then.
        """
        found: list[bytes] = []
        for workspace in list(self.workspaces.values()):
            with workspace.lock:
                state = workspace.view.state
                found += _lowest([*(inode.data for inode in state.orphans.values()), *state.merged])
        for layer in list(self._layers.values()):
            found += _lowest(layer.merged)
        return found

    def diff(self, old: Point, new: Point, horizon: int, limit: int | None = None) -> list[Change]:
        """What differs, the first ``limit``; inode numbers below ``horizon`` mean the same file on both sides."""
        with self._look(old, new) as (a, b):
            return difference(Difference(a, b, horizon), limit)

    def read(self, point: Point, path: bytes, offset: int, size: int) -> tuple[bytes, int]:
        """(up to ``size`` bytes of a file or symlink target at ``offset``, its whole size).

        Symlinks on the way are not followed. Raises NotFound, Invalid when it is a directory or device.
        """
        with self._look(point) as (state,):
            inode = _walk(state, path)
            data = inode.data
            if isinstance(data, bytes):
                return data[offset : offset + size], len(data)
            if not isinstance(data, OverlayFile | StoredFile):
                raise Invalid(f"{path!r} is not a regular file")
            size = max(min(size, READ_BYTES, inode.size - offset), 0)
            return (data.read(offset, size) if size else b""), inode.size

    def statistics(self) -> dict[str, WorkspaceStatistics]:
        """Counts of every open workspace, by id."""
        return {workspace.id: workspace.statistics() for workspace in list(self.workspaces.values())}

    def state(self, chain: Chain) -> State:
        """A frozen state to serve read-only; ``chain`` begins with its layer. Nothing may change it."""
        with self._lock:
            return State(self.env.blocks, self.env.geometry, self._layer(chain))

    @contextmanager
    def _look(self, *points: Point) -> Iterator[list[State]]:
        """The states of ``points``, live ones under their workspaces' locks, taken in the order of their ids."""
        live = {point.workspace: self.workspace(point.workspace) for point in points if not point.chain}
        with ExitStack() as held:
            for _, workspace in sorted(live.items()):
                held.enter_context(workspace.lock)
            yield [self.state(point.chain) if point.chain else live[point.workspace].view.state for point in points]

    def _layer(self, chain: Chain) -> Layer:
        """The newest layer of ``chain``; what is not in memory is read from roots and journals."""
        missing = []
        layer: Layer | None = None
        for spec in chain:
            layer = self._layers.get(spec.id)
            if layer is not None:
                break
            missing.append(spec)
        for spec in reversed(missing):
            layer = self._load(spec, layer)
            self._keep(layer)
        if layer is None:
            raise Corrupt("an empty chain of layers")
        return layer

    def _load(self, spec: LayerSpec, parent: Layer | None) -> Layer:
        if spec.root is not None:
            table = roots.read_root(self.env.blocks, spec.root)
            sectors = spec.logical_bytes // SECTOR
            layer = Layer(spec.id, spec.workspace, None, None, spec.spans, spec.next_ino, count(table), sectors)
            layer.parent_id = spec.parent
            layer.settle(spec.root, table)
            return layer
        state = State(self.env.blocks, self.env.geometry, parent)
        for number, start, end in spec.spans:
            try:
                file = JournalFile.open(self.env.journals, spec.workspace, number)
            except FileNotFoundError:
                raise Corrupt(f"journal {spec.workspace}/{number:010d}.journal is missing") from None
            replay_span(state, file, start, end)
        state.next_ino = spec.next_ino
        return state.freeze(spec.id, spec.workspace, spec.spans)


def _lowest(contents: Iterable[object]) -> Iterator[bytes]:
    """An inode record for the stored content that each of ``contents`` lies on, if it does."""
    for data in contents:
        if isinstance(data, OverlayFile | StoredFile):
            for file in bottoms(data):
                yield encode_inode(_BARE._replace(mode=stat.S_IFREG, size=file.size, content=file.content))
        elif isinstance(data, OverlayDirectory) and (directory := lowest(data)) is not None:
            yield encode_inode(_BARE._replace(mode=stat.S_IFDIR, content=directory_content(directory.pointer)))


def _walk(state: State, path: bytes) -> Inode:
    inode = state.inode(1)
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        entry = state.directory(inode).lookup(name) if inode.is_dir and name != b".." else None
        if entry is None:
            raise NotFound(f"no such file in the snapshot: {path.decode(errors='backslashreplace')}")
        inode = state.inode(entry.ino)
    return inode
