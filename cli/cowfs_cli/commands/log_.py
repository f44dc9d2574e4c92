"""``cowfs log``."""

import click

from cowfs_cli.common import Session, complete_ref, options, table, when


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@options
def command(session: Session, workspace: str) -> None:
    """List the snapshots of WORKSPACE, newest first.

    Automatic ones (before a restore or a fork) are marked with `*`; @latest and @-N leave them out.

    \b
    Examples:
      cowfs log ws-1
      cowfs log ws-1 --json | jq -r '.[0].id'
    """
    from cowfs.client.wire import segment

    found = session.call("GET", f"/v1/workspaces/{segment(workspace)}/log")
    rows = [
        (
            each["id"] + ("*" if each["automatic"] else ""),
            when(each["created_at"]),
            each["state"],
            ",".join(each["labels"]) or "-",
            each["message"].partition("\n")[0],
        )
        for each in found
    ]
    session.out(found, lambda: table(("ID", "CREATED", "STATE", "LABELS", "MESSAGE"), rows))
