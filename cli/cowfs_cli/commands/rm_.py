"""``cowfs rm``."""

import click

from cowfs_cli.common import Session, complete_ref, options, split_path


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...", shell_complete=complete_ref)
@click.option("--force", is_flag=True, help="Remove a workspace even while programs use its mount.")
@options
def command(session: Session, refs: tuple[str, ...], force: bool) -> None:
    """Remove workspaces with all their snapshots, single snapshots, or with WS:PATH files and whole directories.

    What forks of them need stays. A workspace whose mount is in use is busy (exit code 5). WS:PATH is what `rm -r` does
    in the mount, several times faster.

    \b
    Examples:
      cowfs rm try-1 try-2
      cowfs rm ws-1@old
      cowfs rm ws-1:srv/app/node_modules
    """
    from cowfs.client.store import WorkspaceHandle
    from cowfs.client.wire import query

    wire = session.wire()
    for ref in refs:
        workspace, path = split_path(ref)
        if path is not None:
            WorkspaceHandle(wire, workspace).remove_path(path)
        else:
            wire.call("DELETE", "/v1/refs" + query({"ref": ref, "force": "true" if force else None}))
    session.out({"removed": list(refs)}, lambda: [f"removed {ref}" for ref in refs])
