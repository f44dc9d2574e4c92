"""What the catalog says of chains of layers: where two of them part, which journal files they still need."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cowfs.catalog.catalog import Catalog
from cowfs.layers.journal import file_numbers, file_path


def horizon(catalog: Catalog, a: str, b: str) -> int:
    """Inode numbers below this mean the same file in layers ``a`` and ``b``: next_ino of their common ancestor."""
    seen = set()
    at: str | None = a
    while at is not None:
        seen.add(at)
        at = catalog.layer(at).parent
    at = b
    while at is not None and at not in seen:
        at = catalog.layer(at).parent
    return 0 if at is None else catalog.layer(at).next_ino


def trim(catalog: Catalog, journals: Path, workspace: str) -> None:
    """Remove journal files that no unsettled or live layer of the workspace needs.

    What the catalog says must be durable. Raises OSError.
    """
    needed = [span[0] for layer in catalog.layers.values() if layer.workspace == workspace for span in layer.spans]
    entry = catalog.workspaces.get(workspace)
    if entry is not None:
        needed.append(entry.position[0] if entry.position is not None else 0)
    first = min(needed, default=None)
    for number in file_numbers(journals, workspace):
        if first is None or number < first:
            file_path(journals, workspace, number).unlink()
    if first is None:
        with suppress(OSError):  # never had one, or something that is not ours lies in it
            (journals / workspace).rmdir()
