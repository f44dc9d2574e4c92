"""``cowfs gc``."""

import sys
from typing import Any

import click

from cowfs_cli.common import Session, options, size, table


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--prune", is_flag=True, help="First remove what the rules of retention let go (see `cowfs set`).")
@options
def command(session: Session, dry_run: bool, prune: bool) -> None:
    """Give back the space of what no workspace and no snapshot needs any more.

    Everything goes on meanwhile. The daemon does this by itself some minutes after something was removed. Space within
    files that still hold much of what is needed comes back later.

    \b
    Examples:
      cowfs gc --dry-run
      cowfs gc --prune --dry-run     which snapshots and workspaces would go, and why
    """
    from cowfs.client.store import collect_lines
    from cowfs.errors import CowfsError

    live = sys.stderr.isatty() and not session.json
    done: dict[str, Any] | None = None
    for line in collect_lines(session.wire(), dry_run, prune):
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
    rows = [(each["kind"], each["workspace"], each["id"], each["why"]) for each in done["pruned"]]
    lines = table(("GOES" if dry_run else "GONE", "WORKSPACE", "ID", "WHY"), rows)
    session.out(done, lambda: [*lines, f"would remove {text}" if dry_run else freed])
