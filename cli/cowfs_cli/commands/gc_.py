"""``cowfs gc``."""

import sys
from typing import Any

import click

from cowfs_cli.common import Session, options, size


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options
def command(session: Session, dry_run: bool) -> None:
    """Give back the space of what no workspace and no snapshot needs any more.

    Everything goes on meanwhile. The daemon does this by itself some minutes after something was removed. Space within
    files that still hold much of what is needed comes back later.

    \b
    Example:
      cowfs gc --dry-run
    """
    from cowfs.client.store import collect_lines
    from cowfs.errors import CowfsError

    live = sys.stderr.isatty() and not session.json
    done: dict[str, Any] | None = None
    for line in collect_lines(session.wire(), dry_run):
        if "progress" not in line:
            done = line
        elif live:
            counts = ", ".join(f"{key} {value}" for key, value in line["progress"].items())
            click.echo(f"\r\x1b[K{counts}", nl=False, err=True)
    if live:
        click.echo("\r\x1b[K", nl=False, err=True)
    if done is None:
        raise CowfsError("the collection ended without a result", hint="see `cowfs doctor`")
    text = f"{done['blocks']} blocks, {size(done['bytes'])}"
    freed = f"removed {text}; {size(done['freed_bytes'])} of files are gone"
    session.out(done, lambda: [f"would remove {text}" if dry_run else freed])
