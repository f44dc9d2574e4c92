"""The sync client: ``c = cowfs.connect(); ws = c.workspace("ws-1"); ws.checkpoint("msg")``.

Every method is one HTTP request (see docs/api.md). Errors are the branches of cowfs.errors, as the daemon raised
them. Objects are thread-safe and hold no state but their name.
"""

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cowfs.client import decode
from cowfs.client.place import store_path
from cowfs.client.wire import Wire, query, segment
from cowfs.errors import Busy, CowfsError, Invalid
from cowfs.results import (
    Change,
    Checkpointed,
    Collected,
    Restored,
    Scrubbed,
    SettingValue,
    Snapshot,
    StoreUsage,
    Workspace,
)


def connect(store: str | os.PathLike[str] | None = None, *, start: bool = True) -> "Store":
    """The store at ``store`` (default: COWFS_STORE), through its daemon, which is started if need be and ``start``.

    Raises Invalid when no store is named, NotFound when there is none there.
    """
    client = Store(Wire(store_path(None if store is None else os.fspath(store)), start=start))
    client.daemon()
    return client


class Store:
    """One store. Use as a context manager, or ``close()``, to drop the connections."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    @property
    def path(self) -> str:
        """Absolute path of the store directory."""
        return self._wire.store

    def workspace(self, name: str) -> "WorkspaceHandle":
        """A handle of the workspace ``name``; nothing is asked until it is used."""
        return WorkspaceHandle(self._wire, name)

    def workspaces(self) -> list[Workspace]:
        return [decode.workspace(each) for each in self._wire.call("GET", "/v1/workspaces")]

    def create(self, name: str) -> "WorkspaceHandle":
        """An empty workspace. Raises Conflict when the name is taken."""
        self._wire.call("POST", "/v1/workspaces", {"name": name})
        return self.workspace(name)

    def import_tree(
        self,
        source: str | bytes | os.PathLike[str],
        name: str,
        *,
        exclude: Sequence[str] = (),
        limit: int | None = None,
        ttl: int | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> "WorkspaceHandle":
        """A workspace with the content of ``source``: a directory, ``tar:FILE`` (an archive, compressed or not), or an
        image: ``oci:DIR[:TAG]``, ``docker-archive:FILE[:TAG]``.

        ``limit``: bytes of an archive or image, unpacked, at most. ``ttl``: that setting, in seconds, which it has even
        if nobody waits for the import any more when it is done. ``progress`` is called with counts now and then.
        Raises NotFound or Invalid for the source, Conflict when the name is taken.
        """
        for line in import_lines(self._wire, os.fsencode(source), name, exclude, limit, ttl):
            if progress is not None and "progress" in line:
                progress(line["progress"])
        return self.workspace(name)

    def export(
        self,
        ref: str,
        target: str | bytes | os.PathLike[str],
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> list[str]:
        """Write ``ref`` to the new ``target``: ``tar:FILE``, ``dir:PATH``, ``oci:DIR[:TAG]`` or
        ``docker-archive:FILE[:TAG]``; what was left out, a line each.

        Raises Conflict when it, or the image in a layout, exists, Invalid for another kind, NotFound, NoSpace.
        """
        problems: list[str] = []
        for line in export_lines(self._wire, ref, os.fsencode(target)):
            problems = line.get("problems", problems)
            if progress is not None and "progress" in line:
                progress(line["progress"])
        return problems

    def fork(self, ref: str, name: str, *, count: int | None = None) -> "list[WorkspaceHandle]":
        """Fork ``ref`` into ``name``, or into NAME-1 … NAME-``count``, all or none."""
        made = self._wire.call("POST", "/v1/forks", {"ref": ref, "name": name, "count": count})
        return [self.workspace(each["name"]) for each in made]

    def diff(self, a: str, b: str) -> list[Change]:
        """What changed from ``a`` to ``b`` (references)."""
        return [decode.change(each) for each in self._wire.call("GET", "/v1/diff" + query({"a": a, "b": b}))]

    def first_changes(self, a: str, b: str, limit: int) -> tuple[list[Change], bool]:
        """What changed from ``a`` to ``b``, the first ``limit`` by path, and whether there is more."""
        found = self._wire.call("GET", "/v1/diff" + query({"a": a, "b": b, "limit": str(limit)}))
        return [decode.change(each) for each in found["changes"]], found["more"]

    def snapshot(self, ref: str) -> Snapshot:
        """The snapshot that ``ref`` (an id, a unique prefix, or any other reference to one) means."""
        return decode.snapshot(self._wire.call("GET", f"/v1/snapshots/{segment(ref)}"))

    def label(self, ref: str, label: str, *, move: bool = False) -> Snapshot:
        """Add ``label`` to a snapshot. Raises Conflict when another of its workspace has it and not ``move``."""
        return decode.snapshot(
            self._wire.call("POST", f"/v1/snapshots/{segment(ref)}/labels", {"label": label, "move": move})
        )

    def settings(self, ref: str) -> list[SettingValue]:
        """Every setting that a workspace or snapshot may have, set or not."""
        return decode.settings(self._wire.call("GET", "/v1/settings" + query({"ref": ref})))

    def set(
        self, ref: str, settings: Mapping[str, str | int | bool | None], *, move: bool = False
    ) -> list[SettingValue]:
        """Change settings of a workspace or snapshot, all or none, such as ``{"quota.bytes": "10G", "ttl": None}``.

        None unsets; ``label`` gives a snapshot one more (``move``: taken from another). Raises Invalid, Conflict.
        """
        body = {"ref": ref, "settings": dict(settings), "move": move}
        return decode.settings(self._wire.call("PATCH", "/v1/settings", body))

    def remove(self, ref: str, *, force: bool = False) -> None:
        """Remove a workspace with its snapshots, or one snapshot. Raises Busy while in use, without ``force``."""
        self._wire.call("DELETE", "/v1/refs" + query({"ref": ref, "force": "true" if force else None}))

    def mount(self, ref: str) -> str:
        """Mount a workspace, or a snapshot read-only, if it is not mounted; its path."""
        return str(self._wire.call("POST", "/v1/mounts", {"ref": ref})["path"])

    def umount(self, ref: str, *, force: bool = False) -> None:
        """Unmount. Raises Busy, naming the processes, while in use; ``force`` detaches."""
        self._wire.call("DELETE", "/v1/mounts" + query({"ref": ref, "force": "true" if force else None}))

    def mounts(self) -> list[dict[str, Any]]:
        """What is mounted: ``ref``, ``path``, ``read_only``."""
        return list(self._wire.call("GET", "/v1/mounts"))

    def disk_mount(self, ref: str) -> str:
        """Attach the disk of a workspace, or of a snapshot read-only, on this machine; where its files are.

        Raises Invalid (no disk, no root, no filesystem in it), Busy (a machine has it open).
        """
        return str(self._wire.call("POST", "/v1/disks", {"ref": ref})["path"])

    def disk_umount(self, ref: str, *, force: bool = False) -> None:
        """Detach a disk. Raises NotFound when it is not attached, Busy while it is used, without ``force``."""
        self._wire.call("DELETE", "/v1/disks" + query({"ref": ref, "force": "true" if force else None}), again=False)

    def disks(self) -> list[dict[str, Any]]:
        """The attached disks: ``ref``, ``path``, ``read_only``."""
        return list(self._wire.call("GET", "/v1/disks"))

    def show(self, ref: str, path: str | bytes) -> Iterator[bytes]:
        """The content of a file of ``ref``, in pieces. ``path`` is relative to the root."""
        return self._wire.stream(show_target(ref, os.fsencode(path)))

    def stat(self) -> StoreUsage:
        return decode.store_usage(self._wire.call("GET", "/v1/store"))

    def collect(
        self, *, dry_run: bool = False, prune: bool = False, progress: Callable[[dict[str, Any]], None] | None = None
    ) -> Collected:
        """Remove blocks that nothing needs, or with ``dry_run`` say what would go. ``progress``: as for imports.

        ``prune``: apply the rules of retention first. Raises Busy when that is under way already.
        """
        done: dict[str, Any] = {}
        for line in collect_lines(self._wire, dry_run, prune):
            if "progress" not in line:
                done = line
            elif progress is not None:
                progress(line["progress"])
        return decode.collected(done)

    def scrub(
        self, *, rate: int = 50 * 1024 * 1024, progress: Callable[[dict[str, Any]], None] | None = None
    ) -> Scrubbed:
        """Read and hash every record of the store again, at ``rate`` bytes a second. ``progress``: as for imports.

        Raises Busy when that is under way already.
        """
        done: dict[str, Any] = {}
        for line in scrub_lines(self._wire, rate):
            if "progress" not in line:
                done = line
            elif progress is not None:
                progress(line["progress"])
        return Scrubbed(**{**done, "damage": tuple(done["damage"])})

    def daemon(self) -> dict[str, Any]:
        """What ``cowfs daemon status --json`` prints."""
        status: dict[str, Any] = self._wire.call("GET", "/v1/daemon")
        return status

    def stop_daemon(self, *, force: bool = False) -> None:
        """Stop the daemon cleanly. Raises Busy, naming the processes, while a mount is in use, without ``force``."""
        self._wire.call("POST", "/v1/daemon/stop", {"force": force}, again=False)
        self._wire.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Events as they happen, without end: ``{"event", "at", …}``."""
        return self._wire.lines("GET", "/v1/events")


class WorkspaceHandle:
    """One workspace, by name."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self.name = name

    def __repr__(self) -> str:
        return f"WorkspaceHandle({self.name!r})"

    def _target(self, verb: str = "") -> str:
        return f"/v1/workspaces/{segment(self.name)}{verb}"

    @property
    def path(self) -> str:
        """The path where it is mounted; mounts it if need be."""
        return Store(self._wire).mount(self.name)

    def info(self) -> Workspace:
        return decode.workspace(self._wire.call("GET", self._target()))

    def checkpoint(
        self, message: str = "", *, label: str | None = None, allow_empty: bool = False, creator: str = "",
        automatic: bool = False,
    ) -> Checkpointed:  # fmt: skip
        """An immutable, durable point with every change made before the call; nothing is stopped."""
        body = {"message": message, "label": label, "allow_empty": allow_empty, "creator": creator}
        body |= {"automatic": True} if automatic else {}
        return decode.checkpointed(self._wire.call("POST", self._target("/checkpoint"), body))

    def restore(self, ref: str, *, discard: bool = False, force: bool = False) -> Restored:
        """Make the mounted state exactly the snapshot ``ref``; ``undo`` in the result is the state before.

        Raises Conflict when ``ref`` is not in the workspace's own line (fork it instead).
        """
        body = {"ref": ref, "discard": discard, "force": force}
        return decode.restored(self._wire.call("POST", self._target("/restore"), body))

    def disk_restore(self, ref: str, *, discard: bool = False) -> Restored:
        """Restore a workspace whose disk may be attached: it is detached before and attached again afterwards, also
        when the restore fails. Raises Busy while programs use it, or a machine has it open."""
        store = Store(self._wire)
        attached = any(each["ref"] == self.name for each in store.disks())
        mounted = any(each["ref"] == self.name for each in store.mounts())
        if attached:
            store.disk_umount(self.name)
        try:
            if mounted:
                # Only a new mount tells a worker, whose predecessor has died, that nobody has the disk open. Where the
                # mount is used for something else, the restore decides.
                with suppress(Busy):
                    store.umount(self.name)
                store.mount(self.name)
            done = self.restore(ref, discard=discard)
        except BaseException:
            if attached:
                with suppress(CowfsError):  # what is raised says more
                    store.disk_mount(self.name)
            raise
        if attached:
            try:
                store.disk_mount(self.name)
            except Invalid as error:
                back = "" if done.undo is None else f"The state before is {done.undo.id}."
                raise Invalid(f"restored, but its disk cannot be attached: {error.message}", hint=back) from None
        return done

    def undo(self) -> Restored:
        """Take the last restore back."""
        return decode.restored(self._wire.call("POST", self._target("/restore"), {"undo": True}))

    def fork(self, name: str, *, count: int | None = None) -> "list[WorkspaceHandle]":
        return Store(self._wire).fork(self.name, name, count=count)

    def log(self) -> list[Snapshot]:
        """Its snapshots, newest first."""
        return [decode.snapshot(each) for each in self._wire.call("GET", self._target("/log"))]

    def diff(self, a: str, b: str | None = None) -> list[Change]:
        """What changed from ``a`` to ``b`` (default: the live state); ``@LABEL`` means this workspace's."""
        return Store(self._wire).diff(self._full(a), self.name if b is None else self._full(b))

    def first_changes(self, a: str, b: str | None, limit: int) -> tuple[list[Change], bool]:
        """As :meth:`diff`, the first ``limit`` by path, and whether there is more."""
        return Store(self._wire).first_changes(self._full(a), self.name if b is None else self._full(b), limit)

    def _full(self, ref: str) -> str:
        return self.name + ref if ref.startswith("@") else ref

    def set(self, settings: Mapping[str, str | int | bool | None]) -> list[SettingValue]:
        """Change settings of the workspace; see :meth:`Store.set`."""
        return Store(self._wire).set(self.name, settings)

    def remove_path(self, path: str | bytes) -> int:
        """Remove a file, or a directory with everything in it, as ``rm -r`` but faster; how many names went."""
        return int(
            self._wire.call("POST", self._target("/remove-path"), {"path_b64": _inside(path)}, again=False)["count"]
        )

    def clone_path(self, source: str | bytes, target: str | bytes) -> int:
        """Clone a file or directory to a new path, as ``cp -a`` but sharing all bytes; how many names were made."""
        body = {"source_b64": _inside(source), "target_b64": _inside(target)}
        return int(self._wire.call("POST", self._target("/clone-path"), body, again=False)["count"])

    def rename(self, name: str) -> "WorkspaceHandle":
        self._wire.call("POST", self._target("/rename"), {"name": name})
        return WorkspaceHandle(self._wire, name)

    def mount(self) -> str:
        return Store(self._wire).mount(self.name)

    def umount(self, *, force: bool = False) -> None:
        Store(self._wire).umount(self.name, force=force)

    def remove(self, *, force: bool = False) -> None:
        Store(self._wire).remove(self.name, force=force)


def show_target(ref: str, path: bytes) -> str:
    """The URL of a file of ``ref``: its path goes in base64, since it need not be UTF-8."""
    return "/v1/files" + query({"ref": ref, "path_b64": base64.b64encode(path).decode()})


def collect_lines(wire: Wire, dry_run: bool, prune: bool) -> Iterator[dict[str, Any]]:
    """Lines ``{"progress": {…}}``, then the fields of a Collected."""
    return wire.lines("POST", "/v1/store/collect", {"dry_run": dry_run, "prune": prune})


def scrub_lines(wire: Wire, rate: int) -> Iterator[dict[str, Any]]:
    """Lines ``{"progress": {…}}``, then the fields of a Scrubbed."""
    return wire.lines("POST", "/v1/store/scrub", {"rate": rate})


def import_lines(
    wire: Wire, source: bytes, name: str, exclude: Sequence[str], limit: int | None = None, ttl: int | None = None
) -> Iterator[dict[str, Any]]:
    """Lines ``{"progress": {…}}``, then ``{"workspace": {…}, "problems": […]}``. Raises Invalid."""
    if not source:
        raise Invalid("the source of an import is empty", hint="name a directory; . is the current one")
    body: dict[str, Any] = {"source_b64": _place(source), "name": name, "exclude": list(exclude)}
    body |= {} if limit is None else {"limit": limit}
    body |= {} if ttl is None else {"ttl": ttl}
    return wire.lines("POST", "/v1/imports", body)


def export_lines(wire: Wire, ref: str, target: bytes) -> Iterator[dict[str, Any]]:
    """Lines ``{"progress": {…}}``, then ``{"target": …, "problems": […]}``."""
    return wire.lines("POST", "/v1/exports", {"ref": ref, "target_b64": _place(target)})


def _inside(path: str | bytes) -> str:
    """A path from a workspace's root, as base64."""
    return base64.b64encode(os.fsencode(path)).decode()


def _place(text: bytes) -> str:
    """``KIND:PATH`` or a path, made absolute, as base64."""
    kind, colon, path = text.partition(b":")
    if not colon or kind not in (b"tar", b"dir", b"oci", b"docker-archive"):
        return base64.b64encode(os.path.abspath(text)).decode()
    return base64.b64encode(kind + b":" + os.path.abspath(path)).decode()
