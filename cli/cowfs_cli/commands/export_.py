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
    """Write REF to TARGET, which is new: a tar archive, a directory, or an image.

    A workspace is exported as it is now. Owners, modes, times, hard links, extended attributes, access lists, holes and
    devices are kept, and the same snapshot gives the same bytes each time. What cannot be kept is left out, which is
    told on standard error, and in "problems" with --json.

    An image has the layers of the image that REF was imported as, and one more with what was changed since. It may go
    into an OCI layout that has other images; its tag must be a new one.

    \b
    Examples:
      cowfs export ws-1@good tar:good.tar
      cowfs export ws-1 dir:/srv/ws-1
      cowfs export ws-1 oci:/srv/images:good
      cowfs export ws-1 docker-archive:ws-1.tar:ws-1:good
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
    session.out({"ref": ref, **done}, lambda: [f"exported {ref} to {os.fsdecode(target)}"])
