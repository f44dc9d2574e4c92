"""What the API needs from the engine and from the mounts, as protocols.

Every method is synchronous, may block, and is called in a thread; errors are the branches of cowfs.errors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from cowfs.errors import Busy
from cowfs.remembered import Request, Result
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
)  # fmt: skip
from cowfs_daemon.metrics import Sample
from cowfs_daemon.supervised import Supervised

Progress = Callable[[dict[str, Any]], None]
"""Called with counts (``files``, ``bytes``) now and then, and at the end with ``problems``, a list of lines, too."""


class Finding(Protocol):
    """A cowfs.fsck.Problem."""

    def shape(self) -> dict[str, Any]: ...


class WorkerGone(Busy):
    """A worker ended, or its successor has not taken all over yet. What was acknowledged is there; try again soon."""


class KeysLike(Protocol):
    """cowfs.keys.Keys."""

    def find(self, request: Request | None) -> Result | None: ...


class PathsLike(Protocol):
    """cowfs.paths.Paths."""

    def remove(self, ws: str, path: bytes, pause: Callable[[], None]) -> int: ...
    def clone(self, ws: str, source: bytes, target: bytes, pause: Callable[[], None]) -> int: ...


class EngineLike(Protocol):
    """The verbs of cowfs.engine.Engine."""

    @property
    def keys(self) -> KeysLike: ...
    @property
    def paths(self) -> PathsLike: ...
    def create(self, name: str, request: Request | None = None) -> Workspace: ...
    def import_tree(
        self, source: bytes, name: str, exclude: Sequence[str], progress: Progress, request: Request | None = None,
        limit: int = ..., ttl: int | None = None,
    ) -> Workspace: ...  # fmt: skip
    def export(self, ref: str, target: bytes, progress: Progress) -> Sequence[str]: ...
    def checkpoint(
        self,
        ws: str,
        message: str,
        label: str | None = None,
        allow_empty: bool = False,
        creator: str = "",
        *,
        request: Request | None = None,
        automatic: bool = False,
    ) -> Checkpointed: ...
    def restore(
        self, ws: str, ref: str, discard: bool = False, force: bool = False, request: Request | None = None
    ) -> Restored: ...
    def undo(self, ws: str, request: Request | None = None) -> Restored: ...
    def fork(
        self, ref: str, name: str, count: int | None = None, request: Request | None = None
    ) -> list[Workspace]: ...
    def diff(self, a: str, b: str, limit: int | None = None) -> list[Change]: ...
    def log(self, ws: str) -> list[Snapshot]: ...
    def list(self) -> list[Workspace]: ...
    def snapshot(self, ref: str) -> Snapshot: ...
    def label(self, ref: str, label: str, move: bool = False, request: Request | None = None) -> Snapshot: ...
    def rename(self, ws: str, name: str, request: Request | None = None) -> Workspace: ...
    def remove(self, ref: str, force: bool = False, request: Request | None = None) -> None: ...
    def show(self, ref: str, path: bytes) -> Iterator[bytes]: ...
    def stat(self) -> StoreUsage: ...
    def collect(self, dry_run: bool, progress: Progress, prune: bool = False) -> Collected: ...
    def set(
        self, ref: str, changes: Mapping[str, object], move: bool = False, request: Request | None = None
    ) -> Workspace | Snapshot: ...
    def settings(self, ref: str) -> Sequence[SettingValue]: ...
    def fsck(self, deep: bool = False) -> Sequence[Finding]: ...


@dataclass(frozen=True, slots=True)
class Mounted:
    """Something mounted: ``ref`` is a workspace's name, or a snapshot's id when ``read_only``."""

    ref: str
    path: str
    read_only: bool


class MountsLike(Protocol):
    """The mounts of this store."""

    def mount(self, ref: str) -> Mounted:
        """Mount a workspace, or a snapshot read-only; a no-op when it is mounted."""
        ...

    def was_unmounted(self, request: Request | None) -> bool:
        """Whether that request was carried out by ``umount``. Raises Conflict when its key was used for another."""
        ...

    def umount(self, ref: str, force: bool = False, request: Request | None = None) -> None:
        """Raises NotFound when it is not mounted, Busy (naming processes) while in use and not ``force``.

        That it was done is kept under the key of ``request``.
        """
        ...

    def umount_all(self, refs: Iterable[str], force: bool = False) -> None:
        """Unmount those of ``refs`` that are mounted: all, or none. Raises Busy as ``umount`` does."""
        ...

    def mounted(self) -> list[Mounted]: ...

    def wanted(self) -> set[str]:
        """The references of everything that should be mounted, whether it is or not."""
        ...

    def unmounted(self, name: str) -> AbstractContextManager[None]:
        """Nobody mounts the workspace ``name`` within. Raises Busy when it is mounted."""
        ...

    def path_of(self, name: str) -> str | None:
        """Where the workspace ``name`` is mounted; never blocks."""
        ...


class Control(Protocol):
    """The daemon as a whole."""

    def status(self) -> dict[str, Any]:
        """The object that ``cowfs daemon status --json`` prints."""
        ...

    def stop(self, force: bool) -> None:
        """Unmount everything and let the daemon end once the answer is out. Raises Busy as ``umount`` does."""
        ...

    def restart(self, keeper: bool) -> dict[str, Any]:
        """Give way to the installed code, mounts kept, once the answer is out: its ``version``, and the ``keeper``'s
        when that does, too. Raises Conflict when the installed code cannot go on."""
        ...

    def scrub(self, rate: int, progress: Progress) -> Scrubbed:
        """Read and hash every record of the store again, at ``rate`` bytes a second. Raises Busy."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a supervisor runs. ``details`` gives the parts of the status that are theirs: workers, settlers, queues,
    keeper. ``detach_all(force)`` unmounts everything, remembering it for the next start; raises Busy. ``unlisten``
    takes the socket's name away, so that whoever comes from then on starts a new daemon. ``changed`` is called after
    every verb that may have frozen a layer. ``supervised``: what shows life to the keeper. ``outdated()``: the
    installed code is another one, whose workers this process cannot use. ``scrub``: see Control. ``samples`` gives
    figures for ``/metrics``."""

    engine: EngineLike
    mounts: MountsLike
    details: Callable[[], dict[str, Any]]
    detach_all: Callable[[bool], None]
    unlisten: Callable[[], None]
    changed: Callable[[], None]
    supervised: Supervised
    outdated: Callable[[], bool]
    scrub: Callable[[int, Progress], Scrubbed]
    samples: Callable[[], Iterable[Sample]]
