"""Request bodies: strict (no unknown field, no coercion) and bounded. What a name or a reference may be is the
engine's business; here they only have a length."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cowfs.settings import RECORD_MAX

Name = Annotated[str, Field(min_length=1, max_length=255)]
Ref = Annotated[str, Field(min_length=1, max_length=1024)]
Base64Path = Annotated[str, Field(max_length=8192, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class Body(BaseModel):
    """What all have in common: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Create(Body):
    """An empty workspace."""

    name: Name


class Import(Body):
    """``source`` or ``source_b64``: on the daemon's machine, the absolute path of a directory, or ``KIND:`` and that of
    an archive or image (tar, oci, docker-archive). ``limit``: bytes of it, unpacked, at most. ``ttl``: that setting, in
    seconds, from the start."""

    name: Name
    source: Annotated[str, Field(max_length=4096)] | None = None
    source_b64: Base64Path | None = None
    limit: Annotated[int, Field(ge=1, le=1 << 62)] = 100 << 30
    exclude: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=1000)] = []
    ttl: Annotated[int, Field(ge=1, le=1 << 62)] | None = None

    @model_validator(mode="after")
    def one_source(self) -> "Import":
        if (self.source is None) == (self.source_b64 is None):
            raise ValueError("give one of source and source_b64")
        return self


class Export(Body):
    """``target_b64``: on the daemon's machine, ``tar:``, ``dir:``, ``oci:`` or ``docker-archive:`` and the
    absolute path of what does not exist (of an image: ``:TAG`` behind it)."""

    ref: Ref
    target_b64: Base64Path


class Collect(Body):
    """``dry_run``: only say what would go. ``prune``: apply the rules of retention first."""

    dry_run: bool = False
    prune: bool = False


class Set(Body):
    """``settings``: what to set, as text or number; null or empty text unsets. ``move``: take a label from another."""

    ref: Ref
    settings: Annotated[
        dict[Name, Annotated[str, Field(max_length=RECORD_MAX)] | int | bool | None],
        Field(min_length=1, max_length=100),
    ]
    move: bool = False


class Scrub(Body):
    """``rate``: bytes read in a second at most."""

    rate: Annotated[int, Field(ge=1, le=1 << 40)] = 50 * 1024 * 1024


class Checkpoint(Body):
    """``label`` is added also when nothing has changed. ``automatic``: the limit on automatic snapshots counts it."""

    message: Annotated[str, Field(max_length=65536)] = ""
    label: Name | None = None
    allow_empty: bool = False
    creator: Annotated[str, Field(max_length=255)] = ""
    automatic: bool = False


class Restore(Body):
    """``ref``, or ``undo`` for the state before the last restore."""

    ref: Ref | None = None
    undo: bool = False
    discard: bool = False
    force: bool = False

    @model_validator(mode="after")
    def one_target(self) -> "Restore":
        if (self.ref is None) != self.undo:
            raise ValueError("give either ref or undo")
        return self


class RemovePath(Body):
    """``path_b64``: from the root of the workspace."""

    path_b64: Base64Path


class ClonePath(Body):
    """``source_b64``, ``target_b64``: from the root of the workspace; the target does not exist."""

    source_b64: Base64Path
    target_b64: Base64Path


class Fork(Body):
    """``count``: make NAME-1 … NAME-COUNT."""

    ref: Ref
    name: Name
    count: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Rename(Body):
    """``name``: the new one."""

    name: Name


class Label(Body):
    """``move``: take it from the snapshot that has it."""

    label: Name
    move: bool = False


class Mount(Body):
    """``ref``: a workspace, or a snapshot (read-only)."""

    ref: Ref


class Stop(Body):
    """``force``: detach mounts in use."""

    force: bool = False


class Restart(Body):
    """``keeper``: let the keeper go on as the installed code, too."""

    keeper: bool = False


class Check(Body):
    """``deep``: re-hash every block."""

    deep: bool = False
