"""``cowfs scrub``."""

import sys
from typing import Any

import click

from cowfs_cli.common import Session, bytes_of, options, plural, size


@click.command()
@click.option("--rate", default="50M", callback=bytes_of, help="Bytes read in a second at most: 50M, 1G. Default: 50M.")
@options
def command(session: Session, rate: int) -> None:
    """Read and hash every block again, slowly, while everything goes on; say what is damaged.

    The daemon does this by itself once a week, giving way to load; one that was cut off goes on where it was.
    Exit code 6 when something is damaged: `cowfs fsck --deep` names the files.

    \b
    Example:
      cowfs scrub --rate 200M
    """
    from cowfs.client.store import scrub_lines
    from cowfs.errors import Corrupt, CowfsError

    live = sys.stderr.isatty() and not session.json
    done: dict[str, Any] | None = None
    for line in scrub_lines(session.wire(), rate):
        if "progress" not in line:
            done = line
        elif live:
            counts = ", ".join(f"{key} {value}" for key, value in line["progress"].items())
            click.echo(f"\r\x1b[K{counts}", nl=False, err=True)
    if live:
        click.echo("\r\x1b[K", nl=False, err=True)
    if done is None:
        raise CowfsError("the scrub ended without a result", hint="see `cowfs doctor`")
    read = f"{done['blocks']} blocks, {size(done['bytes'])}" + ("" if done["complete"] else "; not all of them")
    damage = done["damage"]
    session.out(done, lambda: [*damage, f"read {read}"])
    if damage:
        raise Corrupt(f"{plural(len(damage), 'place')} damaged", hint="cowfs fsck --deep names the files")
