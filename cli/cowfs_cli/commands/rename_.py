"""``cowfs rename``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.argument("name")
@options
def command(session: Session, workspace: str, name: str) -> None:
    """Give WORKSPACE another NAME. Its snapshots and forks stay as they are; a mount must be unmounted first.

    \b
    Example:
      cowfs rename try-3 winner
    """
    from cowfs.client.wire import segment

    done = session.call("POST", f"/v1/workspaces/{segment(workspace)}/rename", {"name": name})
    session.out(done, lambda: [f"{workspace} is now {name}"])
