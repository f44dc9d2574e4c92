"""``cowfs restore``."""

from collections.abc import Iterator
from typing import Any

import click

from cowfs.errors import Invalid
from cowfs_cli.common import Session, complete_ref, options, plural


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.argument("ref", required=False, shell_complete=complete_ref)
@click.option("--undo", is_flag=True, help="Take the last restore back.")
@click.option("--discard", is_flag=True, help="Do not keep the state before as a snapshot.")
@click.option("--force", is_flag=True, help="Go on even when something mounted inside would be detached.")
@options
def command(session: Session, workspace: str, ref: str | None, undo: bool, discard: bool, force: bool) -> None:
    """Make WORKSPACE exactly the snapshot REF again, in place: same mount, programs keep running.

    The state before is kept as an automatic snapshot, for --undo. REF is @LABEL, WS@LABEL, WS@-2, or an id, of
    this workspace or of those it was forked from. When this returns, no system call sees old data. An open file
    that is not in the snapshot gets ESTALE; a program that keeps file content in its own memory (a database)
    should be stopped first. A restore makes no inotify events.

    \b
    Examples:
      cowfs restore ws-1 @good
      cowfs restore ws-1 ws-1@-2
      cowfs restore ws-1 --undo
    """
    from cowfs.client.wire import segment

    if (ref is None) != undo or (undo and (discard or force)):
        raise Invalid("give either a reference or --undo", hint="cowfs restore WS @LABEL, or cowfs restore WS --undo")
    body = {"undo": True} if undo else {"ref": ref, "discard": discard, "force": force}
    done = session.call("POST", f"/v1/workspaces/{segment(workspace)}/restore", body)
    session.out(done, lambda: _lines(workspace, done))


def _lines(workspace: str, done: dict[str, Any]) -> Iterator[str]:
    yield f"{workspace} is {done['snapshot']['id']} again ({plural(done['changed_inodes'], 'file')} changed)"
    if done["undo"] is not None:
        yield f"the state before is {done['undo']['id']} (cowfs restore {workspace} --undo)"
    gone = sum(handle["gone"] for handle in done["handles"])
    writing = sum(handle["writable"] and not handle["gone"] for handle in done["handles"])
    if gone:
        yield f"{plural(gone, 'open file')} not in the snapshot: programs get ESTALE from there"
    if writing:
        yield f"{plural(writing, 'file')} still open for writing"
