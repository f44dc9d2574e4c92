"""What QEMU and Firecracker need to boot from a disk workspace: the file is the machine's virtio drive.

Sources: qemu(1), virtio-serial; Firecracker's API description (boot-source, drives, machine-config, vsock).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PORT_NAME = "com.cowfs.guest"
"""The virtio-serial port of `cowfs-guest serve`; /dev/virtio-ports/NAME inside."""

VSOCK_CID = 3


@dataclass(frozen=True)
class Machine:
    """``kernel``, ``initrd``: paths, or None; ``socket``: where the host talks to the guest, or None."""

    image: str
    name: str
    kernel: str | None = None
    initrd: str | None = None
    append: str = "root=/dev/vda rw console=ttyS0"
    memory_mib: int = 512
    cpus: int = 1
    socket: str | None = None


def qemu(machine: Machine) -> list[str]:
    """The words of a command line. cache=none: what the guest has flushed is in the workspace; discarded blocks
    become holes."""
    words = ["qemu-system-x86_64", "-name", machine.name, "-machine", "q35", "-m", str(machine.memory_mib)]
    words += ["-smp", str(machine.cpus), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    drive = f"file={_comma(machine.image)},if=none,id=root,format=raw,cache=none,discard=unmap,detect-zeroes=unmap"
    words += ["-drive", drive, "-device", "virtio-blk-pci,drive=root"]
    if machine.kernel is not None:
        words += ["-kernel", machine.kernel, "-append", machine.append]
    if machine.initrd is not None:
        words += ["-initrd", machine.initrd]
    if machine.socket is not None:
        words += [
            "-device",
            "virtio-serial-pci",
            "-chardev",
            f"socket,id=guest,path={_comma(machine.socket)},server=on,wait=off",
        ]
        words += ["-device", f"virtserialport,chardev=guest,name={PORT_NAME}"]
    return words


def _comma(path: str) -> str:
    """A path within an option of QEMU's."""
    return path.replace(",", ",,")


def firecracker(machine: Machine) -> dict[str, Any]:
    """The content of the file for `firecracker --config-file`."""
    append = machine.append if "reboot=" in machine.append else f"{machine.append} reboot=k panic=1 pci=off"
    value: dict[str, Any] = {
        "boot-source": {"kernel_image_path": machine.kernel or "vmlinux", "boot_args": append},
        "drives": [
            {
                "drive_id": "rootfs",
                "path_on_host": machine.image,
                "is_root_device": True,
                "is_read_only": False,
                "cache_type": "Writeback",
            }
        ],
        "machine-config": {"vcpu_count": machine.cpus, "mem_size_mib": machine.memory_mib},
    }
    if machine.initrd is not None:
        value["boot-source"]["initrd_path"] = machine.initrd
    if machine.socket is not None:
        value["vsock"] = {"guest_cid": VSOCK_CID, "uds_path": machine.socket}
    return value
