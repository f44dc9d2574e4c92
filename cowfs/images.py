"""Trees from outside, and out again: imports of directories and archives, exports.

Both are done by child processes: imports by the settler, exports by one of their own, so that settling goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cowfs.catalog.catalog import Catalog
from cowfs.collector import Collector
from cowfs.errors import Conflict, Corrupt, Invalid, NoSpace
from cowfs.formats import control
from cowfs.leases import Leases
from cowfs.owners import Owners
from cowfs.reserve import Reserve
from cowfs.settings import IMAGE_CONFIG
from cowfs.settle.imageimport import LayerRoot, split_tag
from cowfs.settle.importer import ImportResult
from cowfs.settle.process import Settler
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
    """One store's. ``settler()`` imports, ``exporter`` exports; ``settle()`` settles one more layer, False: none is
    left. ``lock`` is the engine's, for the catalog. ``owners``: whose ids those of directories are."""

    def __init__(
        self, store: StoreDirectory, catalog: Catalog, lock: threading.RLock, settler: Callable[[], Settler],
        exporter: Settler, leases: Leases, reserve: Reserve, collector: Collector, settle: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._store = store
        self._catalog = catalog
        self._lock = lock
        self._settler = settler
        self._exporter = exporter
        self._leases = leases
        self._reserve = reserve
        self._collector = collector
        self._settle = settle
        self.owners: Owners | None = None

    def bring(self, source: bytes, exclude: Sequence[str], limit: int, progress: Progress) -> Brought:
        """Store a tree, or an image. The caller publishes it while its blocks are leased.

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
        settler, config = self._settler(), None
        changed: tuple[bytes, ...] = ()
        if kind in ("oci", "docker-archive"):
            image = settler.import_image(kind, *split_tag(path), limit, report)
            layers, skipped, config = image.layers, image.skipped, image.config
        else:
            made = settler.import_tar(path, limit, report) if kind == "tar" else self._directory(path, exclude, report)
            layers = (LayerRoot(made.root, made.next_ino, made.logical_bytes, made.files, ""),)
            skipped, changed = made.skipped, made.changed
        problems = [f"{os.fsdecode(name)}: {reason}" for name, reason in skipped]
        problems += [f"{os.fsdecode(name)}: changed while it was read" for name in changed]
        progress({"files": layers[-1].files, "bytes": layers[-1].logical_bytes, "problems": problems})
        return Brought(layers, problems, config)

    def _directory(self, path: bytes, exclude: Sequence[str], report: Callable[[int, int], None]) -> ImportResult:
        place = self._store.path.stat()
        return self._settler().import_directory(
            path, exclude, [(place.st_dev, place.st_ino)], report, owners=self.owners
        )

    def operations(self, brought: Brought, name: str, ids: Callable[[str], str], now: int) -> list[control.Operation]:
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
        if brought.config is None:
            return operations
        head = None
        for layer_id, message in snapshots:
            snapshot = ids("snap")
            operations.append(
                control.SnapshotMade(snapshot, workspace, head, layer_id, message, (), "cowfs import", now, False)
            )
            head = snapshot
        return [*operations, control.Set(workspace, IMAGE_CONFIG, brought.config)]

    def export(self, snapshot: control.SnapshotEntry, target: bytes, progress: Progress) -> list[str]:
        """Write an archive of a snapshot to the new file ``target`` (``tar:PATH``); what was left out, and why.

        Waits until the snapshot is settled. Raises Invalid, Conflict (something is there already), NoSpace.
        """
        kind, path = source_of(target)
        if kind != "tar":
            raise Invalid(f"cannot export to {os.fsdecode(target)}", hint="Name an archive: tar:FILE")
        if os.path.lexists(path):
            raise Conflict(f"{os.fsdecode(path)} exists already", hint="Choose another name, or remove it.")
        root = self._root(snapshot.layer)
        with self._collector.holding(root):
            skipped = self._exporter.export(root, path, lambda files, size: progress({"files": files, "bytes": size}))
        return [f"{os.fsdecode(name)}: {reason}" for name, reason in skipped]

    def _root(self, layer: str) -> bytes:
        while True:
            with self._lock:
                root = self._catalog.layer(layer).root
            if root is not None:
                return root
            if not self._settle():
                raise Corrupt(f"layer {layer} cannot be settled", hint="Run: cowfs fsck")
