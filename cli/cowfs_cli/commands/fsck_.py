"""``cowfs fsck``."""

import click

from cowfs.errors import Corrupt, NotFound
from cowfs_cli.common import Session, options, plural


@click.command()
@click.option("--deep", is_flag=True, help="Read and re-hash every block, too.")
@options
def command(session: Session, deep: bool) -> None:
    """Check every invariant of the store; say what is damaged. Nothing is changed. Exit code 6 when something is.

    Through the daemon while one runs, else on the store itself.

    \b
    Example:
      cowfs fsck --deep
    """
    from cowfs.client.launch import run_tool

    try:
        found = session.wire(start=False).call("POST", "/v1/store/check", {"deep": deep})
    except NotFound:
        found = run_tool("fsck", "--store", session.path(), *(["--deep"] if deep else []))
    findings = found["findings"]
    session.out(found, lambda: findings or ["clean"])
    if findings:
        raise Corrupt(f"fsck found {plural(len(findings), 'fault')}")
