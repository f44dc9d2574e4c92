"""Where the demo happens: on a live mount through the command line, or in the engine; and how files are wrecked."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from cowfs.engine import Engine
from cowfs.view.inode import Caller, SetAttr
from cowfs.view.view import View
from tests.support.treehash import TreeHash, hash_directory, hash_view


class Files(Protocol):
    """What a program may do to files, by path below the workspace's root."""

    def walk(self) -> Iterator[tuple[str, int]]:
        """(path, mode) of everything, parents first, in a fixed order."""

    def remove(self, path: str) -> None:
        """Delete a file."""

    def write(self, path: str, data: bytes) -> None:
        """Overwrite the beginning of a file, or make it."""

    def truncate(self, path: str, size: int) -> None:
        """Give a file another size."""

    def rename(self, path: str, new: str) -> None:
        """Give a file or directory another name."""

    def chmod(self, path: str, mode: int) -> None:
        """Change the permissions."""

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner."""

    def link(self, path: str, new: str) -> None:
        """One more name for a file."""

    def symlink(self, path: str, target: str) -> None:
        """A new symbolic link."""

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        """Set an extended attribute."""


def wreck(files: Files) -> None:
    """Do every kind of harm, spread over the whole tree."""
    everything = list(files.walk())
    regular = [path for path, mode in everything if stat.S_ISREG(mode)]
    for number, path in enumerate(regular):
        harm = number % 16
        if harm == 0:
            files.remove(path)
        elif harm == 2:
            files.write(path, b"wrecked\n" * (1 + number % 700))
        elif harm == 4:
            files.truncate(path, number % 5000)
        elif harm == 6:
            files.chmod(path, 0o6777)
        elif harm == 8:
            files.rename(path, path + ".moved")
        elif harm == 10:
            files.link(path, path + ".linked")
        elif harm == 12:
            files.set_xattr(path, "user.wrecked", b"yes")
        elif harm == 14:
            files.chown(path, 12345, 54321)
    for path, mode in everything:
        if stat.S_ISLNK(mode):
            files.remove(path)
            files.symlink(path, "/nowhere")
    for number, path in enumerate([path for path, mode in everything if stat.S_ISDIR(mode) and path][::-1]):
        if number % 5 == 0:
            files.write(path + "/new file", b"not here before")
        elif number % 5 == 2:
            files.rename(path, path + " elsewhere")


class Surface(Protocol):
    """The verbs of the demo, and a hash of a workspace taken from outside."""

    place: str

    def import_tree(self, tree: Path, name: str) -> None:
        """Make a workspace of a directory tree."""

    def checkpoint(self, workspace: str, label: str) -> None:
        """Keep the state, under a label."""

    def restore(self, workspace: str, ref: str | None) -> None:
        """Go back to a reference, or take the last restore back."""

    def fork(self, ref: str, name: str, count: int) -> None:
        """``count`` forks NAME-1 ..."""

    def hash(self, workspace: str, identity: bool) -> TreeHash:
        """The tree hash of the live state."""

    def files(self, workspace: str) -> Files:
        """The live files."""

    def stored_bytes(self) -> int:
        """Bytes of blocks on disk."""

    def restart(self) -> None:
        """Stop everything, start again."""

    def fsck(self) -> bool:
        """Whether the checker finds nothing."""

    def close(self) -> None:
        """Leave nothing behind."""


class MountedFiles:
    """Files by ordinary system calls."""

    def __init__(self, root: str) -> None:
        self.root = root

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def walk(self) -> Iterator[tuple[str, int]]:
        """Everything below the root, parents first."""
        for folder, directories, names in os.walk(self.root):
            directories.sort()
            for name in sorted([*directories, *names]):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, self.root), os.lstat(path).st_mode

    def remove(self, path: str) -> None:
        """unlink(2)"""
        os.unlink(self._at(path))

    def write(self, path: str, data: bytes) -> None:
        """Overwrite the beginning, through a descriptor."""
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """truncate(2)"""
        os.truncate(self._at(path), size)

    def rename(self, path: str, new: str) -> None:
        """rename(2)"""
        os.rename(self._at(path), self._at(new))

    def chmod(self, path: str, mode: int) -> None:
        """chmod(2)"""
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """chown(2)"""
        os.chown(self._at(path), uid, gid)

    def link(self, path: str, new: str) -> None:
        """link(2)"""
        os.link(self._at(path), self._at(new))

    def symlink(self, path: str, target: str) -> None:
        """symlink(2)"""
        os.symlink(target, self._at(path))

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        """setxattr(2)"""
        os.setxattr(self._at(path), name, value)


class ViewFiles:
    """Files by the calls that a transport makes."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.caller = Caller()

    def _at(self, path: str) -> tuple[int, bytes]:
        *folders, name = os.fsencode(path).split(b"/")
        at = 1
        for folder in folders:
            found = self.view.lookup(at, folder)
            if found is None:
                raise FileNotFoundError(path)
            at = found.ino
        return at, name

    def _ino(self, path: str) -> int:
        found = self.view.lookup(*self._at(path))
        if found is None:
            raise FileNotFoundError(path)
        return found.ino

    def walk(self, ino: int = 1, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Everything below the root, parents first."""
        for _, name, child, _ in sorted(self.view.readdir(ino, 2), key=lambda row: row[1]):
            path, mode = prefix + os.fsdecode(name), self.view.inode(child).mode
            yield path, mode
            if stat.S_ISDIR(mode):
                yield from self.walk(child, path + "/")

    def remove(self, path: str) -> None:
        """UNLINK"""
        self.view.unlink(*self._at(path), self.caller)

    def write(self, path: str, data: bytes) -> None:
        """WRITE, after MKNOD if need be."""
        parent, name = self._at(path)
        found = self.view.lookup(parent, name)
        made = found or self.view.mknod(parent, name, stat.S_IFREG | 0o644, 0, self.caller)
        self.view.write(made.ino, 0, data, self.caller)

    def truncate(self, path: str, size: int) -> None:
        """SETATTR"""
        self.view.setattr(self._ino(path), SetAttr(size=size), self.caller)

    def rename(self, path: str, new: str) -> None:
        """RENAME"""
        self.view.rename(*self._at(path), *self._at(new), 0, self.caller)

    def chmod(self, path: str, mode: int) -> None:
        """SETATTR"""
        self.view.setattr(self._ino(path), SetAttr(mode=mode), self.caller)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """SETATTR"""
        self.view.setattr(self._ino(path), SetAttr(uid=uid, gid=gid), self.caller)

    def link(self, path: str, new: str) -> None:
        """LINK"""
        self.view.link(self._ino(path), *self._at(new), self.caller)

    def symlink(self, path: str, target: str) -> None:
        """SYMLINK"""
        self.view.symlink(*self._at(path), os.fsencode(target), self.caller)

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        """SETXATTR"""
        self.view.setxattr(self._ino(path), os.fsencode(name), value, 0, self.caller)


class LiveSurface:
    """The command line, a daemon and mounts."""

    place = "on a live mount, through the command line"

    def __init__(self, root: Path, store: Path) -> None:
        folders = [str(root / folder) for folder in ("", "daemon", "cli", "guest")]
        self.environment = {**os.environ, "COWFS_STORE": str(store), "PYTHONPATH": os.pathsep.join(folders)}
        self._cowfs("init")

    def _cowfs(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "cowfs_cli", *arguments, "--json"],
            env=self.environment, cwd="/", check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"cowfs {' '.join(arguments)}: {done.stderr or done.stdout}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def _path(self, workspace: str) -> str:
        found = self._cowfs("path", workspace)
        return str(found["path"] if isinstance(found, dict) else found)

    def import_tree(self, tree: Path, name: str) -> None:
        """cowfs import"""
        self._cowfs("import", str(tree), name)

    def checkpoint(self, workspace: str, label: str) -> None:
        """cowfs checkpoint"""
        self._cowfs("checkpoint", workspace, "-m", "before the wreck", "--label", label)

    def restore(self, workspace: str, ref: str | None) -> None:
        """cowfs restore"""
        self._cowfs("restore", workspace, ref or "--undo")

    def fork(self, ref: str, name: str, count: int) -> None:
        """cowfs fork"""
        self._cowfs("fork", ref, name, "--count", str(count))

    def hash(self, workspace: str, identity: bool) -> TreeHash:
        """The mount's hash."""
        return hash_directory(self._path(workspace), identity=identity)

    def files(self, workspace: str) -> MountedFiles:
        """The mount."""
        return MountedFiles(self._path(workspace))

    def stored_bytes(self) -> int:
        """cowfs stat"""
        return int(self._cowfs("stat")["stored_bytes"])

    def restart(self) -> None:
        """Stop the daemon; the next command starts it again."""
        self._cowfs("daemon", "stop", "--force")

    def fsck(self) -> bool:
        """cowfs fsck"""
        return not self._cowfs("fsck", "--deep")["findings"]

    def close(self) -> None:
        """Stop the daemon, which unmounts everything."""
        self._cowfs("daemon", "stop", "--force")


class EngineSurface:
    """The engine in this process."""

    place = "in the engine alone (a live mount needs root and /dev/fuse)"

    def __init__(self, store: Path) -> None:
        self.store = store
        Engine.create_store(store, time.time_ns, os.urandom(16))
        self.engine = self._open()

    def _open(self) -> Engine:
        return Engine.open(self.store, time.time_ns, lambda prefix: f"{prefix}-{os.urandom(10).hex()}")

    def _view(self, workspace: str) -> View:
        return self.engine.host.workspace(self.engine.open_workspace(workspace)).view

    def import_tree(self, tree: Path, name: str) -> None:
        """Engine.import_tree"""
        self.engine.import_tree(os.fsencode(tree), name, (), lambda progress: None)

    def checkpoint(self, workspace: str, label: str) -> None:
        """Engine.checkpoint"""
        self.engine.checkpoint(workspace, "before the wreck", label)

    def restore(self, workspace: str, ref: str | None) -> None:
        """Engine.restore, Engine.undo"""
        if ref is None:
            self.engine.undo(workspace)
        else:
            self.engine.restore(workspace, workspace + ref)

    def fork(self, ref: str, name: str, count: int) -> None:
        """Engine.fork"""
        self.engine.fork(ref, name, count)

    def hash(self, workspace: str, identity: bool) -> TreeHash:
        """The view's hash."""
        return hash_view(self._view(workspace), identity=identity)

    def files(self, workspace: str) -> ViewFiles:
        """The view."""
        return ViewFiles(self._view(workspace))

    def stored_bytes(self) -> int:
        """Engine.stat"""
        return self.engine.stat().stored_bytes

    def restart(self) -> None:
        """Settle, close, open."""
        self.engine.settle()
        self.engine.close()
        self.engine = self._open()

    def fsck(self) -> bool:
        """Engine.fsck, every block read"""
        return not self.engine.fsck(deep=True)

    def close(self) -> None:
        """Close the store."""
        self.engine.close()
        shutil.rmtree(self.store)
