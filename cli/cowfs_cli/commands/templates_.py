"""``cowfs templates``."""

import click

from cowfs_cli.common import Session, options, table


@click.command()
@options
def command(session: Session) -> None:
    """List the templates: snapshots that `cowfs create --template NAME` begins with.

    \b
    Example:
      cowfs set base@ready template=py311 description='Debian 12, Python 3.11'
    """
    snapshots = [each for each in session.call("GET", "/v1/tree")["snapshots"] if each["settings"].get("template")]
    found = sorted(
        (
            {
                "name": each["settings"]["template"],
                "description": each["settings"].get("description", ""),
                "snapshot": each["id"],
                "workspace": each["workspace"],
            }
            for each in snapshots
        ),
        key=lambda each: str(each["name"]),
    )
    rows = [(each["name"], each["snapshot"], each["workspace"], each["description"]) for each in found]
    session.out(found, lambda: table(("NAME", "SNAPSHOT", "WORKSPACE", "DESCRIPTION"), rows))
