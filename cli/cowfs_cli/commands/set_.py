"""``cowfs set``."""

import click

from cowfs_cli.common import Session, complete_ref, options, table

KEYS = (
    "quota.bytes", "quota.inodes", "retention.last", "retention.within", "retention.automatic", "ttl", "disk", "pin",
    "template", "description", "managed",
)  # fmt: skip
"""What completion offers; the daemon decides what there is."""


def complete_setting(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The settings that begin so."""
    return [f"{key}=" for key in (*KEYS, "label") if key.startswith(incomplete)]


@click.command("set")
@click.argument("ref", shell_complete=complete_ref)
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=complete_setting)
@click.option("--label", help="Add this label to the snapshot; the same as label=LABEL.")
@click.option("--move", is_flag=True, help="Take the label from the snapshot that has it.")
@options
def command(session: Session, ref: str, settings: tuple[str, ...], label: str | None, move: bool) -> None:
    """Change settings of a workspace or a snapshot, all or none. `KEY=` takes one away; alone, show them.

    \b
    Of a workspace:
      quota.bytes=10G          at most so many bytes in its files and directories
      quota.inodes=1M          at most so many files and directories
      retention.last=50        keep so many of its newest snapshots
      retention.within=7d      keep its snapshots for so long
      retention.automatic=20   keep so many of its newest automatic snapshots
      ttl=30d                  remove the workspace when it was not used for so long
      disk=NAME                the file at its top that is a machine's disk: not restored while open
      managed=TEXT             what the program that manages it notes about it
    Of both:
      pin=yes                  never remove it by a rule
      description=TEXT         what it is
    Of a snapshot:
      template=NAME            its name as a template; no rule removes one
      label=NAME               one more label: letters, digits and ._-, unique in its workspace

    \b
    Examples:
      cowfs set ws-1 quota.bytes=10G quota.inodes=1M
      cowfs set ws-1 retention.last=20 retention.within=7d
      cowfs set ws-1@latest label=good pin=yes
      cowfs set ws-1@-2 --label good --move
      cowfs set ws-1 quota.bytes=
    """
    from cowfs.client.wire import query
    from cowfs.errors import Invalid

    changes: dict[str, str] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Invalid(f"{word[:80]!a} is not KEY=VALUE", hint="for example quota.bytes=10G")
        if key in changes:
            raise Invalid(f"{key} is given twice")
        changes[key] = value
    if label is not None:
        changes["label"] = label
    if changes:
        body = {"ref": ref, "settings": changes, "move": move}
        done = session.call("PATCH", "/v1/settings", body)
    else:
        done = session.call("GET", "/v1/settings" + query({"ref": ref}))
    shown = [each for each in done["settings"] if each["key"] in changes or not changes]
    rows = [
        (each["key"], each["text"] or (f"({each['default']})" if each["default"] else "-"), each["help"])
        for each in shown
    ]
    lines = [f"{ref} is now labelled {changes['label']}"] if changes.get("label") else []
    session.out(done, lambda: [*lines, *table(("SETTING", "VALUE", "MEANING"), rows)])
