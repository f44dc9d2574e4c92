"""``cowfs stat``."""

from collections.abc import Iterator
from typing import Any

import click

from cowfs_cli.common import Session, options, size, table


@click.command()
@options
def command(session: Session) -> None:
    """Say what the store holds: bytes as programs see them, bytes on disk, and what each workspace has alone.

    \b
    Example:
      cowfs stat --json | jq .stored_bytes
    """
    found = session.call("GET", "/v1/store")
    session.out(found, lambda: _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"logical  {size(found['logical_bytes'])}"
    yield f"stored   {size(found['stored_bytes'])} in {found['blocks']} blocks, {found['segments']} segments"
    yield f"journals {size(found['journal_bytes'])}"
    yield f"shown    {size(found.get('shown_bytes', 0))} written out for read-only mounts"
    rows = [(each["name"], size(each["exclusive_bytes"])) for each in found["workspaces"]]
    yield from table(("WORKSPACE", "ALONE"), rows)
