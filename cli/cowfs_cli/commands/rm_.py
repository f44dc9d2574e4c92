"""``cowfs rm``."""

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...", shell_complete=complete_ref)
@click.option("--force", is_flag=True, help="Remove a workspace even while programs use its mount.")
@options
def command(session: Session, refs: tuple[str, ...], force: bool) -> None:
    """Remove workspaces with all their snapshots, or single snapshots.

    What forks of them need stays. A workspace whose mount is in use is busy (exit code 5).

    \b
    Examples:
      cowfs rm try-1 try-2
      cowfs rm ws-1@old
    """
    from cowfs.client.wire import query

    wire = session.wire()
    for ref in refs:
        wire.call("DELETE", "/v1/refs" + query({"ref": ref, "force": "true" if force else None}))
    session.out({"removed": list(refs)}, lambda: [f"removed {ref}" for ref in refs])
