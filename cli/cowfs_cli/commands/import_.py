"""``cowfs import``."""

import os
import sys

import click

from cowfs_cli.common import Session, bytes_of, clean, options


@click.command("import")
@click.argument("source", type=click.Path(path_type=bytes))
@click.argument("workspace")
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave out what matches (repeatable).")
@click.option("--limit", metavar="SIZE", callback=bytes_of, default="100G", help="An archive's size, unpacked: 100G.")
@options
def command(session: Session, source: bytes, workspace: str, exclude: tuple[str, ...], limit: int) -> None:
    """Make WORKSPACE from SOURCE: a directory, an archive or an image.

    tar:FILE is an archive (gzip, bzip2, xz and zstd, too). oci:DIR[:TAG] is an OCI image layout,
    docker-archive:FILE[:TAG] what `docker save` writes: each layer becomes a snapshot.

    Everything is kept: owners, modes, times, hard links, extended attributes, holes, devices. Other filesystems
    mounted below SOURCE are not entered. Importing an equal tree again stores nothing. What could not be read or
    changed while it was read is told on standard error, and in "problems" with --json.

    \b
    Examples:
      cowfs import /srv/rootfs ws-1
      cowfs import . ws-1 --exclude '*.pyc' --exclude .git
      cowfs import tar:rootfs.tar.zst ws-1
      cowfs import oci:debian:bookworm ws-1
    """
    from cowfs.client.store import import_lines
    from cowfs.errors import CowfsError, Invalid

    if os.path.isfile(source):
        hint = "for an archive write tar:FILE, for an image docker-archive:FILE"
        raise Invalid(f"{os.fsdecode(source)} is not a directory", hint=hint)
    live = sys.stderr.isatty() and not session.json
    done = None
    for line in import_lines(session.wire(), source, workspace, exclude, limit):
        if "workspace" in line:
            done = line
        elif live:
            counts = ", ".join(f"{value} {key}" for key, value in line["progress"].items())
            click.echo(f"\r\x1b[K{counts}", nl=False, err=True)
    if live:
        click.echo("\r\x1b[K", nl=False, err=True)
    if done is None:
        raise CowfsError("the import ended without a result", hint="see `cowfs doctor`")
    if not session.json:
        for problem in done["problems"]:
            click.echo(f"cowfs: {clean(problem)}", err=True)
    value = {**done["workspace"], "problems": done["problems"]}
    session.out(value, lambda: [f"imported {os.fsdecode(source)} as {workspace}"])
