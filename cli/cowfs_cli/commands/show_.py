"""``cowfs show``."""

import os
import sys

import click

from cowfs.errors import Invalid
from cowfs_cli.common import Session, complete_ref, options, split_path


@click.command()
@click.argument("target", metavar="REF:PATH", shell_complete=complete_ref)
@options
def command(session: Session, target: str) -> None:
    """Print a file as it is in a workspace or was in a snapshot, nothing mounted.

    With REF alone, describe the snapshot.

    \b
    Examples:
      cowfs show ws-1@good:etc/hostname
      cowfs show ws-1@good
    """
    from cowfs.client.store import show_target
    from cowfs.client.wire import segment

    ref, path = split_path(target)
    if not ref:
        raise Invalid(f"not REF:PATH: {target!r}", hint="cowfs show ws-1@good:etc/hostname")
    if path is None:
        found = session.call("GET", f"/v1/snapshots/{segment(ref)}")
        session.out(found, lambda: [f"{key}: {_plain(value)}" for key, value in found.items()])
        return
    for piece in session.wire().stream(show_target(ref, os.fsencode(path))):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)
