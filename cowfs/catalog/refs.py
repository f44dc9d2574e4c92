"""References: what a user writes to name a workspace or a snapshot, and what it names.

    ws          the live state of a workspace
    ws@latest   its newest snapshot; ws@-2 the second newest (automatic snapshots are left out of both)
    ws@LABEL    the snapshot with that label in the workspace, else in its nearest ancestor that has one
    @latest, @-2, @LABEL   where a workspace is given otherwise
    snap-…      a snapshot id, or a unique prefix of one with at least 4 hexadecimal digits
    template:NAME   the snapshot whose setting ``template`` is that

For a fork, ``latest`` and ``-N`` go on, behind its own snapshots, with those of its ancestors up to the fork point,
newest first: its line, exactly the snapshots that it can be restored to.
Errors are :class:`Invalid` (malformed), :class:`NotFound`, or :class:`Conflict` (an ambiguous prefix).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from cowfs.catalog.catalog import Catalog
from cowfs.catalog.names import RESERVED, check_label, check_workspace_name
from cowfs.errors import Conflict, Invalid, NotFound
from cowfs.formats.control import Labelled, SnapshotEntry, WorkspaceEntry

PREFIX_DIGITS = 4
"""Hexadecimal digits that a snapshot id prefix has at least."""

_CANDIDATES = 5
_ID = re.compile(r"snap-[0-9a-f]+")
_NUMBER = re.compile(r"-[1-9][0-9]{0,17}")
_GRAMMAR = "write WS, WS@latest, WS@-2, WS@LABEL, template:NAME, or a snapshot id (snap-…)"

TEMPLATE = RESERVED
"""The setting that makes a snapshot a template."""

_TEMPLATE_PREFIX = TEMPLATE + ":"


class Reference(NamedTuple):
    """A parsed reference. Exactly one of ``snapshot`` (an id or prefix) and ``workspace`` (a name, or None where it
    is given otherwise) counts; ``selector`` is what follows ``@``, None for the live state."""

    workspace: str | None
    selector: str | None
    snapshot: str | None


class Resolved(NamedTuple):
    """What a reference names: the live state of ``workspace`` when ``snapshot`` is None, else that snapshot.

    ``workspace`` is the one that was written or given; for a bare id the one the snapshot was made in.
    """

    workspace: WorkspaceEntry
    snapshot: SnapshotEntry | None


def parse(text: str) -> Reference:
    """Split a reference into its parts. Raises :class:`Invalid`."""
    if text.startswith("snap-"):
        if not _ID.fullmatch(text):
            raise Invalid(f"malformed snapshot id {text[:80]!a}", hint="snap- and hexadecimal digits in lower case")
        if len(text) < len("snap-") + PREFIX_DIGITS:
            raise Invalid(f"snapshot id prefix {text} is too short", hint=f"at least {PREFIX_DIGITS} digits")
        return Reference(None, None, text)
    name, at, selector = text.partition("@")
    if not text or text == "@":
        raise Invalid("empty reference", hint=_GRAMMAR)
    if name:
        check_workspace_name(name)
    if not at:
        return Reference(name, None, None)
    if not selector:
        raise Invalid(f"nothing follows @ in {text[:80]!a}", hint=_GRAMMAR)
    if selector.startswith("-"):
        if not _NUMBER.fullmatch(selector):
            raise Invalid(f"malformed reference {text[:80]!a}", hint="@-1 is the newest snapshot, @-2 the second")
    elif selector != "latest":
        check_label(selector)
    return Reference(name or None, selector, None)


def resolve(catalog: Catalog, text: str, workspace: str | None = None) -> Resolved:
    """What ``text`` names. ``workspace``: name of the workspace that ``@…`` alone belongs to."""
    if text.startswith(_TEMPLATE_PREFIX):
        found, wanted = templates(catalog), text.removeprefix(_TEMPLATE_PREFIX)
        template = found.get(wanted)
        if template is None:
            known = ", ".join(sorted(found)[:20]) or "none"
            raise NotFound(f"no template named {wanted[:80]!a}", hint=f"There are: {known}.")
        return Resolved(catalog.workspace(template.workspace), template)
    reference = parse(text)
    if reference.snapshot is not None:
        snapshot = _by_prefix(catalog, reference.snapshot)
        owner = catalog.by_name(workspace) if workspace is not None else catalog.workspace(snapshot.workspace)
        return Resolved(owner, snapshot)
    name = reference.workspace if reference.workspace is not None else workspace
    if name is None:
        raise Invalid(f"{text[:80]!a} names no workspace", hint="write WS@…")
    entry = catalog.by_name(name)
    if reference.selector is None:
        return Resolved(entry, None)
    return Resolved(entry, _select(catalog, entry, reference.selector))


def templates(catalog: Catalog) -> dict[str, SnapshotEntry]:
    """The snapshots that are templates, by the names that they have as such."""
    found = {}
    for snapshot in catalog.snapshots.values():
        name = catalog.settings(snapshot.id).get(TEMPLATE)
        if name is not None:
            found[name.decode("ascii", "replace")] = snapshot
    return found


def resolve_snapshot(catalog: Catalog, text: str, workspace: str | None = None) -> SnapshotEntry:
    """As :func:`resolve`, but the live state of a workspace is refused with :class:`Invalid`."""
    resolved = resolve(catalog, text, workspace)
    if resolved.snapshot is None:
        raise Invalid(f"{text} is a workspace, not a snapshot", hint=f"{text}@latest is its newest snapshot")
    return resolved.snapshot


def line_of(catalog: Catalog, workspace: str) -> list[SnapshotEntry]:
    """The snapshots that the workspace (an id) may be restored to, newest first: its own, then its ancestors' up to
    its fork point. Automatic ones included."""
    return list(_line(catalog, workspace))


def label_operations(
    catalog: Catalog, workspace: str, label: str, snapshot: str | None, *, move: bool = False
) -> tuple[Labelled, ...]:
    """The operations (none or one) that give ``label`` of the workspace (an id) to ``snapshot``, or check that a
    snapshot about to be made may have it (None). Raises :class:`Conflict` when another has it and not ``move``."""
    check_label(label)
    holder = catalog.labels(workspace).get(label)
    if holder is not None and holder == snapshot:
        return ()
    if holder is not None and not move:
        raise Conflict(f"label {label} belongs to {holder}", hint="--move moves it")
    return () if snapshot is None else (Labelled(workspace, label, snapshot),)


def _line(catalog: Catalog, workspace: str) -> Iterator[SnapshotEntry]:
    for entry, bound in catalog.line(workspace):
        for snapshot in reversed(catalog.snapshots_of(entry.id)):
            if bound is None or snapshot.ordinal <= bound:
                yield snapshot


def _select(catalog: Catalog, workspace: WorkspaceEntry, selector: str) -> SnapshotEntry:
    if selector == "latest" or selector.startswith("-"):
        number = 1 if selector == "latest" else int(selector[1:])
        made = [snapshot for snapshot in _line(catalog, workspace.id) if not snapshot.automatic]
        if number > len(made):
            many = f"only {len(made)} snapshots" if made else "no snapshot yet"
            raise NotFound(f"workspace {workspace.name} has {many}", hint="cowfs checkpoint makes one")
        return made[number - 1]
    for entry, bound in catalog.line(workspace.id):
        holder = catalog.labels(entry.id).get(selector)
        if holder is not None:
            snapshot = catalog.snapshot(holder)
            if bound is None or snapshot.ordinal <= bound:
                return snapshot
    raise NotFound(f"workspace {workspace.name} has no label {selector}", hint=f"cowfs log {workspace.name} lists them")


def _by_prefix(catalog: Catalog, prefix: str) -> SnapshotEntry:
    exact = catalog.snapshots.get(prefix)
    if exact is not None:
        return exact
    matches = (snapshot for snapshot in tuple(catalog.snapshots) if snapshot.startswith(prefix))
    found = list(islice(matches, _CANDIDATES + 1))
    if not found:
        raise NotFound(f"no snapshot {prefix[:80]}", hint="cowfs log WS lists the snapshots of a workspace")
    if len(found) > 1:
        listed = ", ".join(sorted(found[:_CANDIDATES])) + (", …" if len(found) > _CANDIDATES else "")
        raise Conflict(f"{prefix} is ambiguous: {listed}", hint="write more digits")
    return catalog.snapshot(found[0])
