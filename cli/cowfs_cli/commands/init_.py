"""``cowfs init``."""

import os

import click

from cowfs_cli.common import Session, options


@click.command()
@options
def command(session: Session) -> None:
    """Make a new, empty store: for root in /var/lib/cowfs, else in ~/.local/share/cowfs.

    \b
    Examples:
      cowfs init
      cowfs init --store /srv/cowfs; export COWFS_STORE=/srv/cowfs
    """
    from cowfs.client.launch import run_tool
    from cowfs.client.place import default_store

    path = session.path()
    if path == default_store():
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # as the XDG specification says
    made = run_tool("init", "--store", path)
    session.out(made, lambda: [f"made a store at {path}"])
