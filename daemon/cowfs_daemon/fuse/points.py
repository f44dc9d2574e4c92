"""What is mounted inside a workspace's mount."""

from __future__ import annotations

import os

from cowfs.geometry import ROOT_INO
from cowfs.view.view import View
from cowfs_daemon.fuse import mount
from cowfs_daemon.fuse.session import ServedWorkspace


def mount_points(workspace: ServedWorkspace, number: int) -> list[tuple[str, int]]:
    """(path within the workspace, inode it covers) of what is mounted on directories of FUSE connection ``number``.

    Only mounts of this process's mount namespace can be seen.
    """
    table = mount.mount_table()
    device = os.makedev(0, number)
    own = {mounted.mount_id: mounted for mounted in table if mounted.device == device}
    points: list[tuple[str, int]] = []
    for mounted in table:
        parent = own.get(mounted.parent_id)
        if parent is None or mounted.mount_id in own:
            continue
        below = os.path.relpath(mounted.path, parent.path)
        path = os.fsencode(os.path.normpath(os.path.join(parent.root, below)).lstrip("/"))
        with workspace.lock:
            ino = _resolve(workspace.view, path)
        if ino is not None:
            points.append((os.fsdecode(path), ino))
    return points


def _resolve(view: View, path: bytes) -> int | None:
    ino = ROOT_INO
    for name in path.split(b"/"):
        try:
            inode = view.lookup(ino, name)
        except OSError:
            return None
        if inode is None:
            return None
        ino = inode.ino
    return ino
