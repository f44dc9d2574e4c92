"""``cowfs fork``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("ref", shell_complete=complete_ref)
@click.argument("name")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Make NAME-1 ... NAME-N, all or none.")
@options
def command(session: Session, ref: str, name: str, count: int | None) -> None:
    """Make new workspaces from a workspace or a snapshot, whatever its size at once.

    Neither side sees the other's later changes. A fork of a live workspace that has changes makes an automatic
    snapshot of it. A fork is not mounted until `cowfs path` or `cowfs mount`.

    \b
    Examples:
      cowfs fork ws-1 ws-2
      cowfs fork ws-1@good try --count 8
    """
    made = session.call("POST", "/v1/forks", {"ref": ref, "name": name, "count": count})
    session.out(made, lambda: [each["name"] for each in made])
