"""``cowfs disk``."""

import json
import os
import shlex
import stat

import click

from cowfs.client import connect
from cowfs.errors import Busy, Invalid
from cowfs_cli.common import Session, complete_ref, options, table


@click.group("disk")
def command() -> None:
    """Disk workspaces: a machine's disk as a file that forks, checkpoints and restores.

    \b
    Examples:
      cowfs create vm-1 --disk 8G --from oci:debian:bookworm
      p=$(cowfs disk mount vm-1)                   its files, on this machine, as root
      cowfs checkpoint vm-1 --label good           also while it is mounted, or its machine runs
      cowfs disk restore vm-1 @good
      cowfs disk config vm-1 --machine qemu        what boots from it
    """


@command.command("mount")
@click.argument("ref", shell_complete=complete_ref)
@options
def mount(session: Session, ref: str) -> None:
    """Attach the disk of REF on this machine and print where its files are. A snapshot's is read-only.

    Checkpoints and forks of it work meanwhile: the filesystem stands still for that moment. Needs root.

    \b
    Example:
      tar -C $(cowfs disk mount vm-1) -xf rootfs.tar
    """
    mounted = session.call("POST", "/v1/disks", {"ref": ref})
    session.out(mounted, lambda: [mounted["path"]], exact=True)


@command.command("umount")
@click.argument("ref", shell_complete=complete_ref)
@click.option("--force", is_flag=True, help="Detach it although programs use it.")
@options
def umount(session: Session, ref: str, force: bool) -> None:
    """Detach the disk of REF. Everything is in the workspace then."""
    with connect(session.path()) as store:
        store.disk_umount(ref, force=force)
    session.out({"detached": ref}, lambda: [f"detached the disk of {ref}"])


@command.command("list")
@options
def list_(session: Session) -> None:
    """The disks that are attached."""
    found = session.call("GET", "/v1/disks")
    rows = [(each["ref"], "ro" if each["read_only"] else "rw", each["path"]) for each in found]
    session.out(found, lambda: table(("REF", "MODE", "PATH"), rows))


@command.command("restore")
@click.argument("workspace", shell_complete=complete_ref)
@click.argument("ref")
@click.option("--discard", is_flag=True, help="Do not keep the state before.")
@options
def restore(session: Session, workspace: str, ref: str, discard: bool) -> None:
    """Detach the disk of WORKSPACE, restore it to REF, and attach it again if it was attached.

    Busy while programs use its files, or a machine runs from it: stop them first.

    \b
    Example:
      cowfs disk restore vm-1 @good
    """
    with connect(session.path()) as store:
        done = store.workspace(workspace).disk_restore(ref, discard=discard)
    undo = None if done.undo is None else done.undo.id
    value = {"snapshot": done.snapshot.id, "undo": undo}
    back = f"; back again: cowfs disk restore {workspace} {undo}" if undo else ""
    session.out(value, lambda: [f"restored the disk of {workspace} to {done.snapshot.id}{back}"])


@command.command("config")
@click.argument("workspace", shell_complete=complete_ref)
@click.option("--machine", type=click.Choice(("qemu", "firecracker")), required=True, help="What is to boot from it.")
@click.option("--kernel", type=click.Path(), help="The kernel's file. Default for firecracker: vmlinux.")
@click.option("--initrd", type=click.Path(), help="The initial ram disk's file.")
@click.option("--append", metavar="TEXT", help="The kernel's command line.")
@click.option("--memory", metavar="MIB", type=click.IntRange(64, 1 << 20), default=512, help="Default: 512.")
@click.option("--cpus", type=click.IntRange(1, 256), default=1, help="Default: 1.")
@click.option("--socket", type=click.Path(), help="Where the host talks to `cowfs-guest serve`.")
@options
def config(
    session: Session, workspace: str, machine: str, kernel: str | None, initrd: str | None, append: str | None,
    memory: int, cpus: int, socket: str | None,
) -> None:  # fmt: skip
    """Print what boots from the disk of WORKSPACE: a command line of QEMU, or a configuration file of Firecracker.

    The workspace is mounted, and stays so while the machine runs. Detach the disk first: one kernel at a time.

    \b
    Examples:
      sh -c "$(cowfs disk config vm-1 --machine qemu --kernel vmlinuz --initrd initrd.img)"
      cowfs disk config vm-1 --machine firecracker --kernel vmlinux > vm.json; firecracker --config-file vm.json
    """
    from cowfs_cli.disks import machine as machines

    with connect(session.path()) as store:
        names = {each.key: each.value for each in store.settings(workspace)}
        if not isinstance(name := names.get("disk"), str):
            raise Invalid(f"{workspace} has no disk", hint="Make one: cowfs create NAME --disk 8G")
        if any(each["ref"] == workspace for each in store.disks()):
            raise Busy(f"the disk of {workspace} is attached here", hint=f"cowfs disk umount {workspace}")
        image = os.path.join(store.mount(workspace), name)
        if "/" in name or not os.path.lexists(image) or not stat.S_ISREG(os.lstat(image).st_mode):
            raise Invalid(f"the disk of {workspace}, {name[:80]!a}, is no regular file at its top")
    given = machines.Machine(image, workspace, kernel, initrd, memory_mib=memory, cpus=cpus, socket=socket)
    if append is not None:
        given = machines.Machine(image, workspace, kernel, initrd, append, memory, cpus, socket)
    if machine == "qemu":
        session.out({"command": machines.qemu(given)}, lambda: [shlex.join(machines.qemu(given))], exact=True)
    else:
        value = machines.firecracker(given)
        session.out(value, lambda: [json.dumps(value, indent=2)], exact=True)
