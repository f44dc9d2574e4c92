"""``cowfs diff``."""

from collections.abc import Iterator
from typing import Any

import click

from cowfs_cli.common import Session, complete_ref, options

_MARK = {"added": "A", "removed": "D", "modified": "M", "renamed": "R", "metadata": "m"}


@click.command()
@click.argument("a", shell_complete=complete_ref)
@click.argument("b", shell_complete=complete_ref)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Show the first N by path, and whether there are more."
)
@options
def command(session: Session, a: str, b: str, limit: int | None) -> None:
    """List what changed from A to B (references), in time proportional to the changes.

    A added, D removed, M content modified, m only metadata, R renamed.

    \b
    Examples:
      cowfs diff ws-1@good ws-1
      cowfs diff ws-1@good ws-2 --json
    """
    from cowfs.client.wire import query

    found = session.call("GET", "/v1/diff" + query({"a": a, "b": b, "limit": None if limit is None else str(limit)}))
    changes, more = (found, False) if limit is None else (found["changes"], found["more"])
    session.out(found, lambda: [*_lines(changes), *(["and more"] if more else [])])


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    for each in found:
        arrow = f"{each['old_path']} -> " if "old_path" in each else ""
        yield f"{_MARK.get(each['change'], '?')} {arrow}{each['path']}"
