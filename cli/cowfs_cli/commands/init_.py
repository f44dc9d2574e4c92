"""``cowfs init``."""

import click

from cowfs_cli.common import Session, options


@click.command()
@options
def command(session: Session) -> None:
    """Make a new, empty store.

    \b
    Examples:
      cowfs init --store /var/lib/cowfs
      export COWFS_STORE=/var/lib/cowfs
    """
    from cowfs.client.launch import run_tool

    path = session.path()
    made = run_tool("init", "--store", path)
    session.out(made, lambda: [f"made a store at {path}"])
