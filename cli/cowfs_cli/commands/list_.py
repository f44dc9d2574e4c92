"""``cowfs list``."""

import click

from cowfs_cli.common import Session, options, table, when


@click.command()
@options
def command(session: Session) -> None:
    """List the workspaces, with the snapshot each descends from and where it is mounted.

    \b
    Example:
      cowfs list --json | jq -r '.[] | select(.mounted) | .name'
    """
    found = session.call("GET", "/v1/workspaces")
    rows = [(each["name"], each["head"] or "-", when(each["created_at"]), each["path"] or "-") for each in found]
    damaged = [f"{each['name']} is read-only: {each['damage']}" for each in found if each["damage"]]
    session.out(found, lambda: [*table(("NAME", "HEAD", "CREATED", "MOUNTED AT"), rows), *damaged])
