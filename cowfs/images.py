"""Trees from outside, and out again: imports of directories and archives, exports.

Each is done by a child process of its own, so that settling goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from cowfs.catalog.catalog import Catalog
from cowfs.collector import Collector
from cowfs.errors import Conflict, Corrupt, Invalid, NoSpace, NotFound
from cowfs.formats import control
from cowfs.jobs import Jobs
from cowfs.owners import Owners
from cowfs.reserve import Reserve
from cowfs.settings import IMAGE_CHAIN, IMAGE_CONFIG, encode
from cowfs.settle.imageconfig import chain_ids, diff_ids_of
from cowfs.settle.imageexport import Origin
from cowfs.settle.imageimport import LayerRoot, split_tag
from cowfs.settle.importer import ImportResult
from cowfs.store import StoreDirectory

Progress = Callable[[dict[str, Any]], None]

IMPORT_LIMIT_BYTES = 100 << 30
"""Bytes of an archive, unpacked, at most, when nobody says otherwise."""

KINDS = ("dir", "tar", "oci", "docker-archive")


def source_of(text: bytes) -> tuple[str, bytes]:
    """(kind, absolute path) of ``KIND:PATH``, one of :data:`KINDS`, or of a path, which is a directory's.

    Behind the path of an image there may be ``:TAG``. Raises Invalid.
    """
    kind, colon, path = text.partition(b":")
    if not colon or kind.decode("ascii", "replace") not in KINDS:
        kind, path = b"dir", text
    if not path.startswith(b"/") or b"\0" in path:
        raise Invalid("the source, or target, must be an absolute path", hint=f"one of {', '.join(KINDS)}, then :PATH")
    return kind.decode(), path


class Brought(NamedTuple):
    """What an import stored: ``layers`` from below; ``config`` of an image, whose layers become snapshots."""

    layers: tuple[LayerRoot, ...]
    problems: list[str]
    config: bytes | None = None


class Images:
    """One store's. ``jobs`` import and export; ``settle()`` settles one more layer, False: none is left. ``lock`` is
    the engine's, for the catalog. ``owners``: whose ids those of directories are."""

    def __init__(
        self, store: StoreDirectory, catalog: Catalog, lock: threading.RLock, jobs: Jobs, reserve: Reserve,
        collector: Collector, settle: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._store = store
        self._catalog = catalog
        self._lock = lock
        self._importer, self._exporter = jobs.importer, jobs.exporter
        self._reserve = reserve
        self._collector = collector
        self._settle = settle
        self.owners: Owners | None = None

    def bring(self, source: bytes, exclude: Sequence[str], limit: int, progress: Progress, held: ExitStack) -> Brought:
        """Store a tree, or an image. The caller publishes it while its blocks are leased, and before it closes
        ``held``, which holds what the store had of an image.

        ``progress`` is called with ``files`` and ``bytes`` so far, and at the end with ``problems``. Raises NotFound,
        Invalid, NoSpace.
        """
        kind, path = source_of(source)

        def report(files: int, size: int) -> None:
            if not self._reserve.space()[0]:  # an import may use what writers may
                raise NoSpace("no space left for the rest of the import", hint="Free some space, then try again.")
            progress({"files": files, "bytes": size})

        if exclude and kind != "dir":
            raise Invalid("what to exclude can be said for directories only", hint="Unpack the archive first.")
        changed: tuple[bytes, ...] = ()
        config = None
        if kind in ("oci", "docker-archive"):
            image = self._importer.import_image(kind, *split_tag(path), limit, report, partial(self._known, held))
            layers, skipped, config = image.layers, image.skipped, image.config
        else:
            if kind == "tar":
                made = self._importer.import_tar(path, limit, report)
            else:
                made = self._directory(path, exclude, report)
            layers = (LayerRoot(made.root, made.next_ino, made.logical_bytes, made.files, ""),)
            skipped, changed = made.skipped, made.changed
        problems = [f"{os.fsdecode(name)}: {reason}" for name, reason in skipped]
        problems += [f"{os.fsdecode(name)}: changed while it was read" for name in changed]
        progress({"files": layers[-1].files, "bytes": layers[-1].logical_bytes, "problems": problems})
        return Brought(layers, problems, config)

    def _directory(self, path: bytes, exclude: Sequence[str], report: Callable[[int, int], None]) -> ImportResult:
        place = self._store.path.stat()
        return self._importer.import_directory(
            path, exclude, [(place.st_dev, place.st_ino)], report, owners=self.owners
        )

    def operations(
        self, brought: Brought, name: str, ids: Callable[[str], str], now: int, ttl: int | None
    ) -> list[control.Operation]:
        """What makes a workspace of it, in one entry of the control log; ``ids(prefix)`` gives new ids."""
        workspace, live = ids("wsp"), ids("lay")
        operations: list[control.Operation] = []
        parent, snapshots = None, []
        for number, layer in enumerate(brought.layers, 1):
            made = ids("lay")
            operations.append(
                control.LayerImported(made, parent, layer.root, layer.next_ino, layer.logical_bytes, layer.files)
            )
            snapshots.append((made, f"layer {number} of {len(brought.layers)}, {layer.digest[:19]}"))
            parent = made
        if parent is None:
            raise Invalid("the image has no layers")
        next_ino = brought.layers[-1].next_ino
        operations.append(control.WorkspaceCreated(workspace, name, now, live, parent, None, None, None, next_ino))
        if ttl is not None:
            operations.append(control.Set(workspace, "ttl", encode(ttl)))
        if brought.config is None:
            return operations
        head = None
        chains = chain_ids([layer.digest for layer in brought.layers])
        for (layer_id, message), chain in zip(snapshots, chains, strict=True):
            snapshot = ids("snap")
            operations += [
                control.SnapshotMade(snapshot, workspace, head, layer_id, message, (), "cowfs import", now, False),
                control.Set(snapshot, IMAGE_CHAIN, chain.encode()),
            ]
            head = snapshot
        return [*operations, control.Set(workspace, IMAGE_CONFIG, brought.config)]

    def export(self, snapshot: control.SnapshotEntry, target: bytes, progress: Progress) -> list[str]:
        """Write a snapshot to the new ``target``, ``KIND:PATH`` (an image: ``:TAG`` behind it); what was left out, why.

        Waits until the snapshot is settled. Raises Invalid, NotFound, Conflict (something is there already), NoSpace.
        """
        kind, path = source_of(target)
        if not target.startswith(kind.encode() + b":"):
            raise Invalid(
                f"cannot export to {os.fsdecode(target)}",
                hint="Name what to make: tar:FILE, dir:PATH, oci:DIR[:TAG], docker-archive:FILE[:TAG]",
            )
        path, tag = (path, "") if kind in ("tar", "dir") else split_tag(path)
        above = os.path.dirname(path)
        if not os.path.isdir(above):
            raise NotFound(f"{os.fsdecode(above)}: no such directory", hint="Make it first.")
        if kind != "oci" and os.path.lexists(path):
            raise Conflict(f"{os.fsdecode(path)} exists already", hint="Choose another name, or remove it.")
        root = self._root(snapshot.layer)

        def report(files: int, size: int) -> None:
            progress({"files": files, "bytes": size})

        with ExitStack() as held:
            held.enter_context(self._collector.holding(root))
            if kind in ("tar", "dir"):
                skipped = self._exporter.export(root, path, report, kind)
            else:
                layers, config = self._line(snapshot, root, held)
                skipped = self._exporter.export_image(kind, path, tag, layers, config, snapshot.created_at, report)
        return [f"{os.fsdecode(name)}: {reason}" for name, reason in skipped]

    def _line(self, snapshot: control.SnapshotEntry, root: bytes, held: ExitStack) -> tuple[list[Origin], bytes | None]:
        """The layers of an image of a snapshot, and the configuration of the image that its workspace was; their roots
        are held."""
        with self._lock:
            config = self._catalog.settings(snapshot.workspace).get(IMAGE_CONFIG)
            layers: list[Origin] = []
            if config is not None:
                chains = {chain: number for number, chain in enumerate(chain_ids(diff_ids_of(config)), 1)}
                made = self._chains()
                at: str | None = snapshot.layer
                while at is not None:
                    layer = self._catalog.layer(at)
                    number = chains.get(made.get(at, ""))
                    if number is not None and layer.root is not None:
                        held.enter_context(self._collector.holding(layer.root))
                        layers.insert(0, Origin(layer.root, number))
                    at = layer.parent
        return layers if layers and layers[-1].root == root else [*layers, Origin(root, 0)], config

    def _known(self, held: ExitStack, chains: Sequence[str]) -> list[LayerRoot]:
        """What the first layers of an image became when they were imported before; their roots are held."""
        found: list[LayerRoot] = []
        with self._lock:
            layers = {chain: layer for layer, chain in self._chains().items()}
            for chain in chains:
                layer = self._catalog.layer(layers[chain]) if chain in layers else None
                if layer is None or layer.root is None:
                    break
                held.enter_context(self._collector.holding(layer.root))
                found.append(LayerRoot(layer.root, layer.next_ino, layer.logical_bytes, layer.inodes, ""))
        return found

    def _chains(self) -> dict[str, str]:
        """Layer -> ChainID of what images became."""
        found = ((each.layer, self._catalog.settings(each.id)) for each in self._catalog.snapshots.values())
        return {layer: settings[IMAGE_CHAIN].decode() for layer, settings in found if IMAGE_CHAIN in settings}

    def _root(self, layer: str) -> bytes:
        left = True
        while True:
            with self._lock:
                root = self._catalog.layer(layer).root
            if root is not None:
                return root
            if not left:
                raise Corrupt(f"layer {layer} cannot be settled", hint="Run: cowfs fsck")
            left = self._settle()  # False also when another thread has settled the last one meanwhile
