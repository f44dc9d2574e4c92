"""``cowfs clone``."""

import click

from cowfs.errors import Invalid
from cowfs_cli.common import Session, complete_ref, options, plural, split_path


@click.command()
@click.argument("source", metavar="WS:PATH", shell_complete=complete_ref)
@click.argument("target", metavar="PATH")
@options
def command(session: Session, source: str, target: str) -> None:
    """Clone a file or directory of a workspace to the new PATH in it: what `cp -a` does, sharing every byte.

    \b
    Examples:
      cowfs clone ws-1:srv/app srv/app-2
    """
    from cowfs.client.store import WorkspaceHandle

    workspace, path = split_path(source)
    if path is None or not workspace:
        raise Invalid(f"not WS:PATH: {source!r}", hint="cowfs clone ws-1:srv/app srv/app-2")
    count = WorkspaceHandle(session.wire(), workspace).clone_path(path, target)
    session.out({"count": count}, lambda: [f"made {plural(count, 'file')}"])
