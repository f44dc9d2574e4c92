"""``cowfs bundle``."""

import json
import os

import click

from cowfs.client import connect
from cowfs.errors import Conflict, Invalid
from cowfs_cli.common import Session, complete_ref, options
from cowfs_cli.sandbox import bundle, choices, places
from cowfs_cli.sandbox.bubblewrap import Sandbox


@click.command()
@click.argument("workspace", shell_complete=complete_ref)
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--net", type=click.Choice(("none", "host")), default="none", help="The network. Default: none.")
@click.option("--keep", multiple=True, metavar="PATH[=WS2]", help="Bind another workspace over PATH.")
@click.option("--tmpfs", multiple=True, metavar="PATH", help="Memory over PATH.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable.")
@click.option("--workdir", default="/", metavar="PATH", help="Where the program begins. Default: /.")
@click.option("--set-id", is_flag=True, help="Set-id programs of the workspace work inside. Needs root.")
@click.option("--devices", is_flag=True, help="Device nodes of the workspace work inside: the machine's. Needs root.")
@click.option("--terminal", is_flag=True, help="Give the program a terminal.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@options
def command(
    session: Session, workspace: str, directory: str, net: str, keep: tuple[str, ...], tmpfs: tuple[str, ...],
    env: tuple[str, ...], workdir: str, terminal: bool, set_id: bool, devices: bool, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Make DIRECTORY an OCI bundle with which runc or crun runs COMMAND (sh by default) in WORKSPACE, live.

    The workspace is mounted, and stays so: its mount is the container's root. Checkpoints and restores of it work while
    containers run.

    \b
    Examples:
      cowfs bundle ws-1 bundle -- make test; runc run -b bundle job-1
      cowfs bundle ws-1 bundle --terminal; crun run -b bundle shell
    """
    if (set_id or devices) and os.geteuid() != 0:
        raise Invalid("--set-id and --devices need root", hint="An ordinary user's containers have neither.")
    target = os.path.join(directory, "config.json")
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already", hint="Choose another directory, or remove it.")
    with connect(session.path()) as store:
        box = Sandbox(store.workspace(workspace).path, workspace[:64], host_network=net == "host")
        box.environment = dict(choices.pair(each) for each in env)
        box.memory = [places.inside(path) for path in tmpfs]
        box.kept = [choices.kept(store, workspace, each) for each in keep]
        box.workdir = workdir
        paths = [*bundle.MOUNT_POINTS, *(path for path, _ in box.kept), *box.memory]
        places.make(box.root, paths)
    os.makedirs(directory, exist_ok=True)
    with open(target, "x", encoding="utf-8") as file:
        json.dump(
            bundle.config(box, list(command) or ["sh"], terminal=terminal, set_id=set_id, devices=devices),
            file,
            indent=2,
        )
        file.write("\n")
    value = {"bundle": os.path.abspath(directory), "root": box.root}
    session.out(value, lambda: [f"made {value['bundle']}; run it: runc run -b {directory} NAME"])
