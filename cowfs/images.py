"""Trees from outside, and out again: imports of directories and archives, exports.

Both are done by child processes: imports by the settler, exports by one of their own, so that settling goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cowfs.catalog.catalog import Catalog
from cowfs.collector import Collector
from cowfs.errors import Conflict, Corrupt, Invalid, NoSpace
from cowfs.formats import control
from cowfs.leases import Leases
from cowfs.reserve import Reserve
from cowfs.settle.importer import ImportResult
from cowfs.settle.process import Settler
from cowfs.store import StoreDirectory

Progress = Callable[[dict[str, Any]], None]

IMPORT_LIMIT_BYTES = 100 << 30
"""Bytes of an archive, unpacked, at most, when nobody says otherwise."""

KINDS = ("dir", "tar")


def source_of(text: bytes) -> tuple[str, bytes]:
    """(kind, absolute path) of ``tar:PATH``, ``dir:PATH``, or a path, which is a directory's. Raises Invalid."""
    kind, colon, path = text.partition(b":")
    if not colon or kind.decode("ascii", "replace") not in KINDS:
        kind, path = b"dir", text
    if not path.startswith(b"/") or b"\0" in path:
        raise Invalid("the source, or target, must be an absolute path", hint=f"one of {', '.join(KINDS)}, then :PATH")
    return kind.decode(), path


class Images:
    """One store's. ``settler()`` imports, ``exporter`` exports; ``settle()`` settles one more layer, False: none is
    left. ``lock`` is the engine's, for the catalog."""

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

    def bring(
        self, source: bytes, exclude: Sequence[str], limit: int, progress: Progress
    ) -> tuple[ImportResult, list[str]]:
        """Store a tree; (what it became, problems). The caller publishes it while its blocks are leased.

        ``progress`` is called with ``files`` and ``bytes`` so far, and at the end with ``problems``. Raises NotFound,
        Invalid, NoSpace.
        """
        kind, path = source_of(source)

        def report(files: int, size: int) -> None:
            if not self._reserve.space()[0]:  # an import may use what writers may
                raise NoSpace("no space left for the rest of the import", hint="Free some space, then try again.")
            progress({"files": files, "bytes": size})

        if kind == "tar":
            if exclude:
                raise Invalid("what to exclude can be said for directories only", hint="Unpack the archive first.")
            result = self._settler().import_tar(path, limit, report)
        else:
            place = self._store.path.stat()
            result = self._settler().import_directory(path, exclude, [(place.st_dev, place.st_ino)], report)
        problems = [f"{os.fsdecode(path)}: {reason}" for path, reason in result.skipped]
        problems += [f"{os.fsdecode(path)}: changed while it was read" for path in result.changed]
        progress({"files": result.files, "bytes": result.bytes, "problems": problems})
        return result, problems

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
