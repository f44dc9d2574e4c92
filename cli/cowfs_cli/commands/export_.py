"""``cowfs export``."""

import os
import sys

import click

from cowfs_cli.common import Session, clean, complete_ref, options


@click.command()
@click.argument("ref", shell_complete=complete_ref)
@click.argument("target", type=click.Path(path_type=bytes))
@options
def command(session: Session, ref: str, target: bytes) -> None:
    """Write a tar archive of REF to TARGET, a new file.

    Everything that tar can keep is kept: owners, modes, times to the nanosecond, hard links, extended attributes,
    access lists, holes, devices. The same snapshot gives the same bytes each time. A workspace is exported as it is
    now. Sockets are left out, which is told on standard error, and in "problems" with --json.

    \b
    Examples:
      cowfs export ws-1@good tar:good.tar
      cowfs export ws-1 tar:/srv/ws-1.tar
    """
    from cowfs.client.store import export_lines
    from cowfs.errors import CowfsError

    live = sys.stderr.isatty() and not session.json
    done = None
    for line in export_lines(session.wire(), ref, target):
        if "target" in line:
            done = line
        elif live:
            counts = ", ".join(f"{value} {key}" for key, value in line["progress"].items())
            click.echo(f"\r\x1b[K{counts}", nl=False, err=True)
    if live:
        click.echo("\r\x1b[K", nl=False, err=True)
    if done is None:
        raise CowfsError("the export ended without a result", hint="see `cowfs doctor`")
    if not session.json:
        for problem in done["problems"]:
            click.echo(f"cowfs: {clean(problem)}", err=True)
    session.out({"ref": ref, **done}, lambda: [f"exported {ref} to {clean(os.fsdecode(target))}"])
