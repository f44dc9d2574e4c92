"""``cowfs set``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command("set")
@click.argument("ref", shell_complete=complete_ref)
@click.option("--label", required=True, help="Add this label to the snapshot.")
@click.option("--move", is_flag=True, help="Take the label from the snapshot that has it.")
@options
def command(session: Session, ref: str, label: str, move: bool) -> None:
    """Set a label of a snapshot: letters, digits and ._-, unique in its workspace.

    \b
    Examples:
      cowfs set ws-1@latest --label good
      cowfs set ws-1@-2 --label good --move
    """
    from cowfs.client.wire import segment

    body = {"label": label, "move": move}
    done = session.call("POST", f"/v1/snapshots/{segment(ref)}/labels", body)
    session.out(done, lambda: [f"{done['id']} is now labelled {label}"])
