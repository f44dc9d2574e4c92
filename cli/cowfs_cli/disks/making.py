"""A workspace that holds a machine's disk: one file with an ext4 filesystem, made by mke2fs(8).

No loop device and no root is needed for that, unless the content has files of other owners.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cowfs.client.store import Store
from cowfs.errors import Conflict, CowfsError, Invalid, NoSpace, NotFound
from cowfs_cli.transient import TTL_SECONDS, transient

IMAGE = "disk.img"
LEAST_BYTES = 8 << 20
MOST_BYTES = 16 << 40
"""What ext4 with blocks of 4 KiB can be."""

_IMPORTED = re.compile(r"(oci|docker-archive|tar|dir):.", re.DOTALL)


def make(store: Store, name: str, size: int, source: str | None) -> str:
    """Make the disk workspace ``name`` of ``size`` bytes; the path of its image.

    ``source``: what it has in it, as for an import (``oci:…``, ``docker-archive:…``, ``tar:…``, ``dir:…``), or a
    workspace or snapshot. Raises Invalid, NotFound, Conflict, NoSpace; nothing is left then. It has its name when it is
    done: killed before, it leaves nothing that is in the way of another try, and nothing that stays.
    """
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise Invalid(f"a disk of {size} bytes", hint="From 8M to 16T.")
    with suppress(NotFound):
        store.settings(name)
        raise Conflict(f"a workspace named {name} exists", hint="Choose another name, or remove it.")
    with transient(store, f"making-{secrets.token_hex(8)}") as workspace:
        store.create(workspace.name)
        workspace.set({"disk": IMAGE, "ttl": TTL_SECONDS})
        image = os.path.join(workspace.path, IMAGE)
        with open(image, "xb") as file:
            file.truncate(size)
        os.chmod(image, 0o600)
        with _content(store, source) as root:
            format_image(image, root, name)
        workspace.umount()
        workspace.set({"ttl": None})
        return os.path.join(workspace.rename(name).path, IMAGE)


@contextmanager
def _content(store: Store, source: str | None) -> Iterator[str | None]:
    """A directory with what ``source`` means."""
    if source is None:
        yield None
    elif source.startswith("dir:"):
        path = os.path.abspath(source[4:])
        if not os.path.isdir(path):
            raise Invalid(f"{path} is not a directory")
        yield path
    else:
        with transient(store, f"content-{secrets.token_hex(8)}") as content:
            if _IMPORTED.match(source):
                store.import_tree(source, content.name, ttl=TTL_SECONDS)  # which goes on when this process is killed
            else:
                # In a workspace itself a program could put a link where mke2fs has seen a file, which it then follows.
                store.fork(source, content.name)
                content.set({"ttl": TTL_SECONDS})
            yield content.path


def format_image(image: str, root: str | None, label: str) -> None:
    """An ext4 filesystem in the file ``image``, with everything below ``root``. Raises Invalid, NoSpace."""
    # What a new file has is zeros: nothing of it has to be written, then or later by the kernel.
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", label[:16], "-E", "assume_storage_prezeroed=1"]
    words += [] if root is None else ["-d", root]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "MKE2FS_SYNC": "0"}
    try:
        done = subprocess.run(
            [*words, image], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise CowfsError("mke2fs is missing", hint="apt-get install e2fsprogs") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:] or f"it ended with {done.returncode}"
        if "Could not allocate" in said or "No space left" in said or "No free space" in said:
            raise NoSpace(f"the content does not fit: {said}", hint="Give a larger --disk.")
        raise Invalid(f"mke2fs: {said}")
