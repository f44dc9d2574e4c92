"""What the verbs return: frozen records, the same in the engine, over the wire and in ``--json``.

Times are ns since the epoch here; the JSON form is RFC 3339 UTC.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable point. ``state`` is ``frozen`` or ``settled``; ``root`` is hex, None until settled."""

    id: str
    workspace: str
    parent: str | None
    message: str
    labels: tuple[str, ...]
    creator: str
    created_at: int
    automatic: bool
    state: str
    root: str | None
    settings: dict[str, int | bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A mutable branch. ``head`` is the id of the snapshot that the live layer descends from, or None.

    ``damage``: why it is read-only; None when all is well, or when it was not opened yet.
    """

    id: str
    name: str
    head: str | None
    created_at: int
    mounted: bool = False
    path: str | None = None
    damage: str | None = None
    settings: dict[str, int | bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """``changed`` is False when the head already held everything and was returned."""

    snapshot: Snapshot
    changed: bool


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file that a restore affected. ``gone``: its inode is not in the restored state."""

    ino: int
    writable: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """``undo`` is the snapshot of the state before (None with discard, or when nothing had changed)."""

    snapshot: Snapshot
    undo: Snapshot | None
    changed_inodes: int
    handles: tuple[Handle, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``change``: added, removed, modified, renamed or metadata; paths relative to the root."""

    change: str
    path: bytes
    old_path: bytes | None = None


@dataclass(frozen=True, slots=True)
class WorkspaceUsage:
    """``exclusive_bytes``: stored bytes that would come back if this workspace were removed."""

    name: str
    exclusive_bytes: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """``logical_bytes``: what the inodes of all workspaces have allocated; ``stored_bytes``: block records on disk;
    ``shown_bytes``: files written out for read-only mounts."""

    logical_bytes: int
    stored_bytes: int
    blocks: int
    segments: int
    journal_bytes: int
    shown_bytes: int
    workspaces: tuple[WorkspaceUsage, ...]


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What a scrub has read so far in its pass. ``damage``: a line each. Times in ns, 0: never."""

    blocks: int
    bytes: int
    damage: tuple[str, ...]
    complete: bool
    began_at: int
    passed_at: int


@dataclass(frozen=True, slots=True)
class SettingValue:
    """One setting: its value, that and the default as they are written; None when it is not set, or has no default."""

    key: str
    value: int | bool | str | None
    text: str | None
    default: str | None
    help: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a rule removed (or would): a ``kind`` (snapshot or workspace) by id, of the workspace named so, and why."""

    kind: str
    id: str
    workspace: str
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What garbage collection removed (or would): ``blocks`` of ``bytes`` stored; ``freed_bytes`` of files are gone.

    Bytes in segments that still hold much of what is needed come back later. ``pruned``: what went by rules before.
    """

    blocks: int
    bytes: int
    freed_bytes: int
    dry_run: bool
    pruned: tuple[Pruned, ...] = ()
