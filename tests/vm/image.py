"""What a test machine is made of: a Debian kernel, a small initramfs, and a disk image with Debian and Python in it.

Everything is kept in a folder (``build/vm``) and made once: the kernel comes from Debian's package as it is, the root
filesystem from debootstrap. Only Debian's mirror is needed, and root.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

from cowfs_cli.agent import folder

MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
           "virtio_console", "virtio-rng")  # fmt: skip
PROGRAMS = ("qemu-system-x86_64", "debootstrap", "busybox", "mkfs.ext4", "apt-get", "dpkg-deb", "cpio")

_INITRAMFS = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in MODULES; do /bin/busybox insmod /modules/$module.ko 2> /dev/null; done
while [ ! -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /new || exec /bin/busybox poweroff -f
for each in dev proc sys; do /bin/busybox mount --move /$each /new/$each; done
exec /bin/busybox switch_root /new /sbin/cowfs-init
"""

_INIT = """\
#!/bin/sh
mount -t tmpfs run /run
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"; done
echo "cowfs: starting the server"
while :; do /usr/local/bin/cowfs-guest serve; sleep 1; done
"""


def missing() -> list[str]:
    """Programs that making and running a machine needs and that are not here."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return [each for each in PROGRAMS if shutil.which(each, path=path) is None]


def kernel(build: Path) -> Path:
    """The folder that Debian's newest cloud kernel is unpacked in."""
    place = build / "kernel"
    if not place.exists():
        shown = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True)
        package = next(line.split()[-1] for line in shown.stdout.splitlines() if "Depends:" in line)
        downloads = build / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=downloads, check=True)
        (archive,) = downloads.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, build / "kernel.new"], check=True)
        (build / "kernel.new").rename(place)
    return place


def vmlinuz(build: Path) -> Path:
    """The kernel's file."""
    (found,) = (kernel(build) / "boot").glob("vmlinuz-*")
    return found


def initramfs(build: Path) -> Path:
    """A file that mounts the first virtio disk and goes on there."""
    tree = build / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for each in ("bin", "dev", "proc", "sys", "new", "modules"):
        (tree / each).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "bin/busybox")
    for path in (kernel(build) / "lib/modules").rglob("*.ko"):
        if path.stem in MODULES:
            shutil.copy(path, tree / "modules")
    (tree / "init").write_text(_INITRAMFS.replace("MODULES", " ".join(MODULES)))
    (tree / "init").chmod(0o755)
    names = "\0".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))).encode()
    made = subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], input=names, cwd=tree, capture_output=True)
    assert made.returncode == 0, made.stderr
    file = build / "initramfs.gz"
    file.write_bytes(gzip.compress(made.stdout, 1))
    return file


def root(build: Path) -> Path:
    """A directory with Debian, Python, and this checkout's ``cowfs-guest``."""
    place = build / "root"
    if not place.exists():
        words = ["debootstrap", "--variant=minbase", "--include=python3,procps", "bookworm", str(build / "root.new")]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(build / "root.new/var/cache/apt/archives")
        (build / "root.new").rename(place)
    folder.program(place / "usr/local/bin/cowfs-guest")
    (place / "sbin/cowfs-init").write_text(_INIT)
    (place / "sbin/cowfs-init").chmod(0o755)
    return place


def disk(build: Path, path: Path, size_mb: int = 1024) -> Path:
    """A raw ext4 image at ``path`` with that directory's content; holes where nothing is."""
    words = ["mkfs.ext4", "-q", "-F", "-d", str(root(build)), "-E", "lazy_itable_init=1", str(path), f"{size_mb}M"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return path
