"""An engine in memory, for testing the API and the client alone: workspaces are dictionaries of files."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cowfs_daemon.ports import Mounted, Progress

from cowfs.errors import Busy, Conflict, Invalid, NotFound
from cowfs.results import (
    Change,
    Checkpointed,
    Handle,
    Restored,
    Snapshot,
    StoreUsage,
    Workspace,
    WorkspaceUsage,
)

Files = dict[bytes, bytes]


class FakeEngine:
    def __init__(self) -> None:
        self.live: dict[str, Files] = {}
        self.workspaces: dict[str, Workspace] = {}
        self.snapshots: dict[str, tuple[Snapshot, Files]] = {}
        self.undos: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def _resolve(self, ref: str) -> tuple[Files, Snapshot | None]:
        if ref in self.live:
            return self.live[ref], None
        if ref in self.snapshots:
            snapshot, files = self.snapshots[ref]
            return files, snapshot
        name, at, label = ref.partition("@")
        if at and name not in self.live:
            raise NotFound(f"no workspace named {name!r}")
        for snapshot in self.log(name) if at else ():
            if label in snapshot.labels or (label == "latest" and not snapshot.automatic):
                return self.snapshots[snapshot.id][1], snapshot
        raise NotFound(f"nothing is called {ref!r}")

    def create(self, name: str) -> Workspace:
        if name in self.live:
            raise Conflict(f"{name} exists", hint="choose another name")
        if "/" in name or "@" in name:
            raise Invalid(f"not a valid name: {name!r}")
        number = next(self._numbers)
        self.live[name] = {}
        self.workspaces[name] = Workspace(f"ws-{number}", name, None, 1_700_000_000_123_456_789)
        return self.workspaces[name]

    def import_tree(self, source: bytes, name: str, exclude: Sequence[str], progress: Progress) -> Workspace:
        if source == b"/vanished":
            progress({"files": 1})
            raise NotFound("/vanished does not exist")
        made = self.create(name)
        for count in (1, 2):
            progress({"files": count})
        self.live[name][b"source"] = source
        return made

    def checkpoint(
        self, ws: str, message: str, label: str | None = None, allow_empty: bool = False, creator: str = ""
    ) -> Checkpointed:
        files, _ = self._resolve(ws)
        head = self.workspaces[ws].head
        if head is not None and not allow_empty and self.snapshots[head][1] == files:
            return Checkpointed(self.snapshots[head][0], False)
        return Checkpointed(self._snap(ws, message, (label,) if label else (), creator, False), True)

    def _snap(self, ws: str, message: str, labels: tuple[str, ...], creator: str, automatic: bool) -> Snapshot:
        number = next(self._numbers)
        parent = self.workspaces[ws].head
        made = Snapshot(f"snap-{number}", ws, parent, message, labels, creator, number, automatic, "frozen", None)
        self.snapshots[made.id] = (made, dict(self.live[ws]))
        self.workspaces[ws] = replace(self.workspaces[ws], head=made.id)
        return made

    def restore(self, ws: str, ref: str, discard: bool = False, force: bool = False) -> Restored:
        files, snapshot = self._resolve(ref)
        if snapshot is None:
            raise Invalid("not a snapshot")
        if snapshot.workspace != ws:
            raise Conflict(f"{ref} is not in the line of {ws}", hint=f"cowfs fork {ref} NAME")
        undo = None if discard else self._snap(ws, "before restore", (), "", True)
        if undo is not None:
            self.undos[ws] = undo.id
        changed = len(set(self.live[ws].items()) ^ set(files.items()))
        self.live[ws] = dict(files)
        return Restored(snapshot, undo, changed, (Handle(7, True, False), Handle(8, False, True)))

    def undo(self, ws: str) -> Restored:
        if ws not in self.undos:
            raise NotFound(f"{ws} has no restore to take back")
        return self.restore(ws, self.undos[ws])

    def fork(self, ref: str, name: str, count: int | None = None) -> list[Workspace]:
        files, snapshot = self._resolve(ref)
        names = [name] if count is None else [f"{name}-{i}" for i in range(1, count + 1)]
        if any(each in self.live for each in names):
            raise Conflict("a name is taken")
        if snapshot is None:
            snapshot = self.checkpoint(ref, "before fork").snapshot
        for each in names:
            self.create(each)
            self.live[each] = dict(files)
            self.workspaces[each] = replace(self.workspaces[each], head=snapshot.id)
        return [self.workspaces[each] for each in names]

    def diff(self, a: str, b: str) -> list[Change]:
        old, new = self._resolve(a)[0], self._resolve(b)[0]
        kinds = {(True, True): "modified", (True, False): "removed", (False, True): "added"}
        paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        changes = [Change(kinds[path in old, path in new], path) for path in paths]
        moved = [each for each in changes if each.path == b"moved"]
        return [replace(each, change="renamed", old_path=b"was\xff") if each in moved else each for each in changes]

    def log(self, ws: str) -> list[Snapshot]:
        if ws not in self.live:
            raise NotFound(f"no workspace named {ws!r}")
        return [each for each, _ in reversed(self.snapshots.values()) if each.workspace == ws]

    def list(self) -> list[Workspace]:
        return [*self.workspaces.values()]

    def snapshot(self, ref: str) -> Snapshot:
        found = self._resolve(ref)[1]
        if found is None:
            raise Invalid(f"{ref} is not a snapshot")
        return found

    def label(self, ref: str, label: str, move: bool = False) -> Snapshot:
        snapshot = replace(self.snapshot(ref), labels=(*self.snapshot(ref).labels, label))
        self.snapshots[snapshot.id] = (snapshot, self.snapshots[snapshot.id][1])
        return snapshot

    def rename(self, ws: str, name: str) -> Workspace:
        self._resolve(ws)
        self.live[name] = self.live.pop(ws)
        self.workspaces[name] = replace(self.workspaces.pop(ws), name=name)
        return self.workspaces[name]

    def remove(self, ref: str, force: bool = False) -> None:
        self._resolve(ref)
        self.live.pop(ref, None)
        self.workspaces.pop(ref, None)
        self.snapshots.pop(ref, None)

    def show(self, ref: str, path: bytes) -> Iterator[bytes]:
        files, _ = self._resolve(ref)
        if path not in files:
            raise NotFound(f"no file {path!r} in {ref}")
        yield from (files[path][i : i + 3] for i in range(0, len(files[path]), 3))

    def stat(self) -> StoreUsage:
        usages = tuple(WorkspaceUsage(name, 1) for name in self.live)
        return StoreUsage(10, 5, 2, 1, 3, usages)

    def fsck(self, deep: bool = False) -> Sequence[str]:
        return ["damaged"] if deep else []


class FakeMounts:
    def __init__(self) -> None:
        self.table: dict[str, Mounted] = {}
        self.busy = False

    def mount(self, ref: str) -> Mounted:
        return self.table.setdefault(ref, Mounted(ref, f"/mounts/{ref}", "@" in ref))

    def umount(self, ref: str, force: bool = False) -> None:
        if self.busy and not force:
            raise Busy(f"{ref} is in use by 12 (bash)", hint="--force")
        if self.table.pop(ref, None) is None:
            raise NotFound(f"{ref} is not mounted")

    def mounted(self) -> list[Mounted]:
        return list(self.table.values())

    def path_of(self, name: str) -> str | None:
        return self.table[name].path if name in self.table else None

    def detach_all(self, force: bool) -> None:
        for ref in list(self.table):
            self.umount(ref, force)
