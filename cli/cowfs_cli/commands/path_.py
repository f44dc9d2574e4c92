"""``cowfs path``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@options
def command(session: Session, workspace: str) -> None:
    """Print where WORKSPACE is mounted, mounting it if need be. It is usable at once.

    \b
    Example:
      p=$(cowfs path ws-1); ls $p
    """
    mounted = session.call("POST", "/v1/mounts", {"ref": workspace})
    session.out(mounted, lambda: [mounted["path"]], exact=True)
