"""The workspaces of a store as its host serves them: opening, and what their journals say beyond the control log.

A marker in a workspace's journal is the commit point of a verb; the control log copies it. What cannot be copied at
once (a full disk) is owed, and copied with the next verb of that workspace.

``lock`` is the engine's, for the catalog. The host is called under it only to open a workspace.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.catalog.refs import line_of
from cowfs.errors import Conflict, Corrupt, CowfsError, Invalid, NotFound
from cowfs.formats import control
from cowfs.host import BranchSpec, Host
from cowfs.keys import Entries, Keys
from cowfs.lineage import Targets, chain, with_ancestors
from cowfs.quarantine import Quarantine
from cowfs.remembered import Request, Result
from cowfs.results import Handle
from cowfs.retention import Uses
from cowfs.settings import quota
from cowfs.trimming import Trimming


class Branches:
    """``targets``: snapshots that journals may name; told when the control log knows of every restore.

    ``uses`` is told of every workspace that somebody wants.
    """

    def __init__(
        self,
        catalog: Catalog,
        lock: threading.RLock,
        host: Host,
        trimming: Trimming,
        targets: Targets,
        keys: Keys,
        uses: Uses,
    ) -> None:
        self._keys = keys
        self._catalog = catalog
        self._lock = lock
        self._host = host
        self._trimming = trimming
        self._targets = targets
        self._uses = uses
        self._owed: dict[str, tuple[control.Operation, ...]] = {}
        self._damage: dict[str, str] = {}

    def catch_up(self, journals: Path, quarantine: Quarantine) -> None:
        """Open every workspace whose journal goes on behind the control log: its markers count.

        A damaged one stays closed and keeps its files. Journals that nobody knows are what a removal left; when the log
        was cut they may be all that is left of a workspace, and are put away.
        """
        found = {path.name for path in journals.iterdir()}
        for entry in list(self._catalog.workspaces.values()):
            if entry.id in found:
                with suppress(CowfsError, OSError):
                    self.open(entry)
        self._catalog.sync()
        known = {*self._catalog.workspaces, *(layer.workspace for layer in self._catalog.layers.values())}
        for workspace in found:
            if workspace not in known and self._catalog.statistics().cut_bytes:
                quarantine.move(journals / workspace)
            else:
                self._trimming.trim(workspace)

    def open(self, entry: control.WorkspaceEntry) -> None:
        """Let the host serve a workspace; what its journal says beyond the control log is taken over."""
        with self._lock:
            if self._host.is_open(entry.id):
                return
            spec = BranchSpec(
                entry.id, entry.live_layer, chain(self._catalog, entry.parent_layer), entry.head, entry.next_ino,
                entry.position or (0, 0, 0), None if entry.head is None else self._catalog.snapshot(entry.head).layer,
                quota(self._catalog.settings(entry.id)),
            )  # fmt: skip
            line = (snapshot.layer for snapshot in line_of(self._catalog, entry.id))
            done = self._host.open(spec, with_ancestors(self._catalog, line))
            self._owed.pop(entry.id, None)  # the journal says all of it again
            self._damage.pop(entry.id, None)
            if done.damage:
                self._damage[entry.id] = done.damage
            try:
                self.take(entry.id, done.operations)
            except (Invalid, NotFound, Conflict) as error:
                del self._owed[entry.id]
                self._host.close(entry.id)
                raise Corrupt(f"the journal of {entry.name} contradicts the control log: {error.message}") from error
            except CowfsError:
                return  # the control log cannot be written: it is owed, and files are served all the same
            self._targets.arrived(entry.id)

    def by_name(self, name: str) -> control.WorkspaceEntry:
        """The entry of a name. Raises NotFound."""
        with self._lock:
            return self._catalog.by_name(name)

    def ready(self, name: str) -> control.WorkspaceEntry:
        """A workspace that the host serves."""
        with self._lock:
            entry = self._catalog.by_name(name)
            self._uses.touch(entry.id)
            self.open(entry)
            with suppress(CowfsError):
                self.take(entry.id, ())
            return self._catalog.by_name(name)

    def begin(self, name: str, request: Request | None) -> tuple[control.WorkspaceEntry, Result | None]:
        """The same for a verb that a journal records, and the result of the request if it was carried out.

        Raises NoSpace when it may have been, but the control log cannot be written.
        """
        entry = self.ready(name)
        with self._lock:
            if request is not None and entry.id in self._owed:
                self.take(entry.id, ())
            return entry, self._keys.find(request)

    def take(self, workspace: str, done: tuple[control.Operation, ...], handles: tuple[Handle, ...] = ()) -> None:
        """Copy what a workspace did into the control log; what cannot be written now is owed until it can.

        ``handles``: those that a restore among it affected.
        """
        with self._lock:
            owed = self._owed.pop(workspace, ()) + done
            kept = [each for each in owed if isinstance(each, control.Idempotency)]
            rest = [each for each in owed if not isinstance(each, control.Idempotency)]
            try:
                # With a damaged journal there are no markers to learn it from again.
                self.commit(*rest, sync=workspace in self._damage, then=self._keys.completed(kept, handles))
            except BaseException:
                self._owed[workspace] = owed
                raise

    def commit(self, *operations: control.Operation, sync: bool = False, then: Entries | None = None) -> None:
        """Write one entry of the control log, if there is anything to write; see :meth:`Catalog.commit`."""
        if operations or then is not None:
            with self._lock:
                self._catalog.commit(*operations, sync=sync, then=then)

    def damage(self, workspace: str) -> str | None:
        """Why the workspace of that id is read-only; None when it is not."""
        return self._damage.get(workspace)

    def removed(self, workspace: str) -> None:
        """The workspace of that id is no more: nothing is owed for it."""
        self._owed.pop(workspace, None)
        self._damage.pop(workspace, None)
