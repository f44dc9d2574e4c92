"""``cowfs fsck``."""

from collections.abc import Iterator
from typing import Any

import click

from cowfs.errors import Corrupt, Invalid, NotFound
from cowfs_cli.common import Session, options, plural


@click.command()
@click.option("--deep", is_flag=True, help="Read and re-hash every block, too.")
@click.option("--repair", is_flag=True, help="Mend what can be mended. The daemon must be stopped.")
@options
def command(session: Session, deep: bool, repair: bool) -> None:
    """Check every invariant of the store; say what is damaged, and which files of which snapshots it hurts.

    Without --repair nothing is changed; it goes through the daemon while one runs, else to the store itself. With it,
    the index is made anew, unreadable segments, journals and entries go to STORE/quarantine (what is whole in them
    stays in use; nothing is deleted), and everything done and lost is said. Then the store is checked once more.

    Exit code 6 when something is damaged, for as long as it is: files whose blocks are lost stay damaged until they are
    restored or imported again.

    \b
    Examples:
      cowfs fsck --deep
      cowfs daemon stop && cowfs fsck --repair
    """
    from cowfs.client.launch import run_tool

    if repair and deep:
        raise Invalid("--repair reads everything already", hint="leave --deep out")
    if repair:
        found = run_tool("repair", "--store", session.path())
    else:
        try:
            found = session.wire(start=False).call("POST", "/v1/store/check", {"deep": deep})
        except NotFound:
            found = run_tool("fsck", "--store", session.path(), *(["--deep"] if deep else []))
    findings = found["findings"]
    session.out(found, lambda: [*_done(found.get("repaired", [])), *(_lines(findings) if findings else ["clean"])])
    if findings:
        raise Corrupt(f"fsck found {plural(len(findings), 'fault')}" + (" that cannot be mended" if repair else ""))


def _done(repaired: list[dict[str, Any]]) -> Iterator[str]:
    for each in repaired:
        yield f"repaired {each['where']}: {each['what']}"
        for lost in each["lost"]:
            yield f"  lost: {lost}"
        if each["quarantine"]:
            yield f"  kept in {each['quarantine']}"


def _lines(findings: list[dict[str, Any]]) -> Iterator[str]:
    for each in findings:
        yield f"{each['where']}: {each['what']}"
        for place in each["affected"]:
            yield f"  affects {place}"
        more = each["affected_count"] - len(each["affected"])
        if more > 0:
            yield f"  and {more} more"
        yield f"  to do: {each['advice']}"
