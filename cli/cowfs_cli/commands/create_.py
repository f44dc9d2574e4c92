"""``cowfs create``."""

import click

from cowfs_cli.common import Session, options


@click.command()
@click.argument("workspace")
@click.option("--template", metavar="NAME", help="Begin as this template is; see cowfs templates.")
@options
def command(session: Session, workspace: str, template: str | None) -> None:
    """Make a workspace: an empty one, or one that begins as a template is.

    \b
    Examples:
      cowfs create scratch; cd $(cowfs path scratch)
      cowfs set base@ready template=py311 description='Debian 12, Python 3.11'
      cowfs create task-1 --template py311
    """
    if template is None:
        made = session.call("POST", "/v1/workspaces", {"name": workspace})
    else:
        (made,) = session.call("POST", "/v1/forks", {"ref": f"template:{template}", "name": workspace})
    session.out(made, lambda: [f"created {workspace}"])
