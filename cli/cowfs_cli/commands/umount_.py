"""``cowfs umount``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("ref", shell_complete=complete_ref)
@click.option("--force", is_flag=True, help="Detach it even while programs use it.")
@options
def command(session: Session, ref: str, force: bool) -> None:
    """Unmount a workspace or a snapshot. Nothing is lost: the workspace stays as it is.

    While programs use it, it is busy (exit code 5), and they are named.

    \b
    Example:
      cowfs umount ws-1
    """
    from cowfs.client.wire import query

    session.call("DELETE", "/v1/mounts" + query({"ref": ref, "force": "true" if force else None}))
    session.out({"ref": ref, "mounted": False}, list)
