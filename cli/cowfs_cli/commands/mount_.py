"""``cowfs mount``."""

import os

import click

from cowfs.errors import Invalid
from cowfs_cli.common import Session, complete_ref, options, table


@click.command()
@click.argument("ref", required=False, shell_complete=complete_ref)
@click.argument("path", required=False, type=click.Path())
@click.option("--foreground", is_flag=True, help="Serve it at PATH without a daemon, until interrupted or unmounted.")
@click.option("--transport", type=click.Choice(["kernel", "pyfuse3"]), help="What serves it: kernel for the daemon.")
@options
def command(session: Session, ref: str | None, path: str | None, foreground: bool, transport: str | None) -> None:
    """Mount a workspace, or a snapshot read-only, and print the path. Without REF, list the mounts.

    \b
    Examples:
      cowfs mount ws-1
      cowfs mount ws-1@good        read-only, beside the live one
      cowfs mount
      cowfs mount ws-1 /mnt/ws-1 --foreground --transport pyfuse3

    The daemon mounts at a path of its own. In the foreground, one process serves one workspace of the store through
    pyfuse3, slower but without a daemon; other commands reach it as they reach a daemon.
    """
    if foreground:
        _serve(session, ref, path, transport or "pyfuse3")
    if path is not None or transport == "pyfuse3":
        raise Invalid("the daemon mounts at a path of its own", hint="add --foreground to serve one workspace at PATH")
    if ref is None:
        found = session.call("GET", "/v1/mounts")
        rows = [(each["ref"], "ro" if each["read_only"] else "rw", each["path"]) for each in found]
        session.out(found, lambda: table(("REF", "MODE", "PATH"), rows))
    else:
        mounted = session.call("POST", "/v1/mounts", {"ref": ref})
        session.out(mounted, lambda: [mounted["path"]], exact=True)


def _serve(session: Session, workspace: str | None, path: str | None, transport: str) -> None:
    """Become the process that serves a workspace."""
    if workspace is None or path is None:
        raise Invalid("--foreground needs a workspace and a path", hint="cowfs mount WS PATH --foreground")
    if transport != "pyfuse3":
        raise Invalid("the kernel transport is the daemon's", hint="leave out --foreground, or add --transport pyfuse3")
    from cowfs.client.launch import daemon_command, daemon_environment

    words = daemon_command("foreground", "--store", session.path(), *(["--json"] if session.json else []))
    words += ["--", workspace, os.path.abspath(path)]
    os.execve(words[0], words, daemon_environment())
