"""``cowfs scrub``."""

import sys
from typing import Any

import click

from cowfs_cli.common import Session, clean, options, plural, size

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def bytes_of(_: click.Context, parameter: click.Parameter, text: str) -> int:
    """A number of bytes such as 50M."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise click.BadParameter(f"{text!r} is no number of bytes such as 50M", param=parameter)
    return int(number) * _UNITS[unit]


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
    session.out(done, lambda: [*map(clean, damage), f"read {read}"])
    if damage:
        raise Corrupt(f"{plural(len(damage), 'place')} damaged", hint="cowfs fsck --deep names the files")
