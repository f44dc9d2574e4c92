"""``cowfs checkpoint``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.option("-m", "--message", default="", help="What this state is.")
@click.option("--label", help="A name for it, unique in the workspace: then WS@LABEL means it.")
@click.option("--allow-empty", is_flag=True, help="Make a new snapshot even when nothing has changed.")
@click.option("--creator", default="", help="Who made it.")
@options
def command(session: Session, workspace: str, message: str, label: str | None, allow_empty: bool, creator: str) -> None:
    """Keep the state of WORKSPACE as a snapshot, without stopping anything, and print its id.

    The snapshot holds every change whose system call had returned, mapped memory included, and survives a power
    loss once this returns. With nothing changed, the last snapshot is printed again (and gets the label).

    \b
    Examples:
      cowfs checkpoint ws-1 -m "before the edit" --label good
      id=$(cowfs checkpoint ws-1)
    """
    from cowfs.client.wire import segment

    body = {"message": message, "label": label, "allow_empty": allow_empty, "creator": creator}
    done = session.call("POST", f"/v1/workspaces/{segment(workspace)}/checkpoint", body)
    session.out(done, lambda: [done["snapshot"]["id"]])
