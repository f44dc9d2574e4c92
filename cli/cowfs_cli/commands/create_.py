"""``cowfs create``."""

import click

from cowfs.errors import Invalid
from cowfs_cli.common import Session, bytes_of, options


@click.command()
@click.argument("workspace")
@click.option("--template", metavar="NAME", help="Begin as this template is; see cowfs templates.")
@click.option("--disk", metavar="SIZE", callback=bytes_of, help="A machine's disk of that size, such as 8G.")
@click.option("--from", "source", metavar="SOURCE", help="With --disk: what it has in it.")
@options
def command(session: Session, workspace: str, template: str | None, disk: int | None, source: str | None) -> None:
    """Make a workspace: an empty one, one that begins as a template is, or one that holds a machine's disk.

    SOURCE is a workspace or snapshot, or what cowfs import takes: oci:DIR[:TAG], docker-archive:FILE, tar:FILE,
    dir:PATH. The disk is the file disk.img with an ext4 filesystem; see cowfs disk.

    \b
    Examples:
      cowfs create scratch; cd $(cowfs path scratch)
      cowfs set base@ready template=py311 description='Debian 12, Python 3.11'
      cowfs create task-1 --template py311
      cowfs create vm-1 --disk 8G --from ws-1@good
    """
    if disk is not None:
        if template is not None:
            raise Invalid("--template and --disk", hint="Give one of them; --from says what a disk has in it.")
        from cowfs.client import connect
        from cowfs_cli.disks import making
        from cowfs_cli.transient import ending

        with ending(), connect(session.path()) as store:
            image = making.make(store, workspace, disk, source)
        session.out({"name": workspace, "image": image}, lambda: [f"created {workspace} with the disk {image}"])
        return
    if source is not None:
        raise Invalid("--from is for disks", hint="Add --disk SIZE, or use cowfs import or cowfs fork.")
    if template is None:
        made = session.call("POST", "/v1/workspaces", {"name": workspace})
    else:
        (made,) = session.call("POST", "/v1/forks", {"ref": f"template:{template}", "name": workspace})
    session.out(made, lambda: [f"created {workspace}"])
