"""``cowfs create``."""

import click

from cowfs_cli.common import Session, options


@click.command()
@click.argument("workspace")
@options
def command(session: Session, workspace: str) -> None:
    """Make an empty workspace.

    \b
    Example:
      cowfs create scratch; cd $(cowfs path scratch)
    """
    made = session.call("POST", "/v1/workspaces", {"name": workspace})
    session.out(made, lambda: [f"created {workspace}"])
