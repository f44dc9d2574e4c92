"""``cowfs mount``."""

import click

from cowfs_cli.common import Session, complete_ref, options, table


@click.command()
@click.argument("ref", required=False, shell_complete=complete_ref)
@options
def command(session: Session, ref: str | None) -> None:
    """Mount a workspace, or a snapshot read-only, and print the path. Without REF, list the mounts.

    \b
    Examples:
      cowfs mount ws-1
      cowfs mount ws-1@good        read-only, beside the live one
      cowfs mount
    """
    if ref is None:
        found = session.call("GET", "/v1/mounts")
        rows = [(each["ref"], "ro" if each["read_only"] else "rw", each["path"]) for each in found]
        session.out(found, lambda: table(("REF", "MODE", "PATH"), rows))
    else:
        mounted = session.call("POST", "/v1/mounts", {"ref": ref})
        session.out(mounted, lambda: [mounted["path"]])
