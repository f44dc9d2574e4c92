"""``cowfs tree``."""

from collections.abc import Iterator
from typing import Any

import click

from cowfs_cli.common import Session, complete_ref, options


@click.command()
@click.argument("workspace", required=False, shell_complete=complete_ref)
@options
def command(session: Session, workspace: str | None) -> None:
    """Draw how snapshots and workspaces descend from each other: of all, or of WORKSPACE and its forks.

    \b
    Example:
      cowfs tree ws-1
    """
    from cowfs.client.wire import query

    found = session.call("GET", "/v1/tree" + query({"workspace": workspace}))
    session.out(found, lambda: draw(found["snapshots"], found["workspaces"]))


def draw(snapshots: list[dict[str, Any]], workspaces: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a drawing: roots are snapshots without a (known) parent, and workspaces without a head."""
    children: dict[str | None, list[str]] = {}
    label: dict[str, str] = {}
    known = {each["id"] for each in snapshots}
    for each in sorted(snapshots, key=lambda each: each["created_at"]):
        children.setdefault(each["parent"] if each["parent"] in known else None, []).append(each["id"])
        names = "".join(f" @{name}" for name in each["labels"])
        label[each["id"]] = f"{each['id']}{names}  {each['message'].partition(chr(10))[0]}".rstrip()
    for each in workspaces:
        # A workspace's node is keyed by its name; "@" cannot be in a name, nor a snapshot's id begin with it.
        key = "@" + each["name"]
        children.setdefault(each["head"] if each["head"] in known else None, []).append(key)
        label[key] = f"[{each['name']}]"
    stack = [(key, "", True, True) for key in reversed(children.get(None, []))]
    while stack:
        key, indent, last, top = stack.pop()
        yield label[key] if top else indent + ("└─ " if last else "├─ ") + label[key]
        below = children.get(key, [])
        # A line of descent stays in one column: only branches are indented.
        deeper = "" if top else indent + ("   " if last else "│  ")
        stack.extend((child, deeper, child == below[-1], False) for child in reversed(below))
