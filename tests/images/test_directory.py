"""Directories out: what a filesystem can keep is kept, what it cannot is told, what fails leaves nothing."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Conflict, NoSpace
from cowfs.settle.direxport import remove_tree
from tests.cli.live import living
from tests.images.conftest import ACL, run
from tests.support.lab import ME, Lab
from tests.support.treehash import differences, hash_directory

AS_NOBODY = """
import io, os, sys
from pathlib import Path
from cowfs.settle.child import Store
from cowfs.settle.direxport import export_directory
from cowfs.settle.tarexport import export_tar

class Kept:  # what root has read once
    def __init__(self, reader):
        self.nodes, self._reader, self._known = reader.nodes, reader, {}
    def get(self, id_):
        if id_ not in self._known:
            self._known[id_] = self._reader.get(id_)
        return self._known[id_]

store = Path(sys.argv[1])
blocks, root = Kept(Store(str(store / "index"), str(store / "segments")).reader), bytes.fromhex(sys.argv[2])
export_tar(blocks, root, io.BytesIO(), lambda *_: None, lambda *_: None)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
export_directory(blocks, root, b"/proc/self/cwd/out", lambda *_: None, lambda path, reason: print(path, reason))
"""


def ignore(_: Any) -> None:
    """Progress."""


def export(store: Lab, ref: str, target: str | Path) -> list[str]:
    """Export; what was left out."""
    return store.engine.export(ref, os.fsencode(f"dir:{target}"), ignore)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB that hands down an access list."""
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place)
    yield place
    run("umount", place)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Path]:
    """A filesystem without extended attributes of users."""
    place = tmp_path / "plain"
    place.mkdir()
    run("mount", "-t", "ramfs", "ramfs", place)
    yield place
    run("umount", place)


def test_a_directory_imports_to_the_same_root(store: Lab, tree: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "socket"))
    os.utime(tree / "socket", ns=(1, 1))
    os.utime(tree, ns=(1, 1_600_000_000_000_000_000))
    os.setxattr(tmp_path, "system.posix_acl_default", ACL)  # nothing of what is above is handed down
    root = store.engine.settler.import_directory(tree).root
    store.engine.import_tree(os.fsencode(tree), "ws", (), ignore)
    out = tmp_path / "out"
    assert export(store, "ws", out) == []
    wanted, found = hash_directory(tree, holes=True), hash_directory(out, holes=True)
    assert wanted == found, differences(wanted, found)
    assert store.engine.settler.import_directory(out).root == root
    assert stat.S_ISSOCK((out / "socket").lstat().st_mode)
    assert (out / "setid").stat().st_mode & 0o7777 == 0o6755
    assert {path.name for path in tmp_path.iterdir()} == {"store", "tree", "out"}
    with pytest.raises(Conflict):
        export(store, "ws", out)


def test_no_depth_is_too_deep(store: Lab, tmp_path: Path) -> None:
    store.engine.create("ws")
    view = store.files("ws").view
    at, depth = 1, 1500
    for _ in range(depth):
        at = view.mkdir(at, b"directory", 0o700, ME).ino
    first = view.mknod(at, b"f", stat.S_IFREG | 0o644, 0, ME)
    view.link(first.ino, 1, b"link", ME)
    assert export(store, "ws", tmp_path / "out") == []
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        at = os.open("out", os.O_RDONLY, dir_fd=top)
        wanted = os.stat("link", dir_fd=at)
        for _ in range(depth):
            below = os.open("directory", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        assert os.stat("f", dir_fd=at).st_ino == wanted.st_ino
        assert wanted.st_nlink == 2
        os.close(at)
        remove_tree(top, b"out")
    finally:
        os.close(top)
    assert not (tmp_path / "out").exists()


def test_what_the_filesystem_cannot_do_is_told(store: Lab, tree: Path, plain: Path) -> None:
    """Every path is there, with its content; one line says what all of them lack."""
    for number in range(3):
        (tree / f"attribute{number}").touch()
        os.setxattr(tree / f"attribute{number}", "user.y", b"1")
    store.engine.import_tree(os.fsencode(tree), "ws", (), ignore)
    told = export(store, "ws", plain / "out")
    assert [each for each in told if "user.y" in each] == [
        "attribute0: the extended attribute user.y cannot be kept here (and 2 more)"
    ]
    wanted, found = hash_directory(tree).facts, hash_directory(plain / "out").facts
    assert {path: each._replace(xattrs=()) for path, each in wanted.items()} == {
        path: each._replace(xattrs=()) for path, each in found.items()
    }


def test_a_full_disk_leaves_nothing(store: Lab, small: Path) -> None:
    store.engine.create("ws")
    files = store.files("ws")
    files.mkdir("d")
    files.write("d/small", b"small")
    files.link("d/small", "d/other")
    files.write("large", os.urandom(2 << 20))
    for target in (f"dir:{small}/out", f"tar:{small}/out", f"oci:{small}/out", f"docker-archive:{small}/out"):
        with pytest.raises(NoSpace, match="out"):
            store.engine.export("ws", os.fsencode(target), ignore)
        assert list(small.iterdir()) == []


def test_through_the_commands(tree: Path, tmp_path: Path) -> None:
    with living(tmp_path / "s") as live:
        live.cowfs("import", f"dir:{tree}", "ws")
        target = f"dir:{tmp_path}/out"
        assert live.json("export", "ws", target) == {"ref": "ws", "target": target, "problems": []}
        assert hash_directory(tmp_path / "out") == hash_directory(tree)
        again = live.run("export", "ws", target)
        assert (again.code, again.err.count("\n")) == (4, 1), again
        nowhere = live.run("export", "ws", f"dir:{tmp_path}/none/out")
        assert (nowhere.code, "none" in nowhere.err) == (3, True), nowhere


def test_without_root(store: Lab, tree: Path, tmp_path: Path) -> None:
    """As another user: files are that user's, set-id bits and devices are left out, and it is told."""
    root = store.engine.settler.import_directory(tree).root
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 65534, 65534)
    words = [sys.executable, "-P", "-c", AS_NOBODY, str(store.path), root.hex()]
    path = os.pathsep.join(each for each in sys.path if each)
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=place, env={"PYTHONPATH": path})
    assert told.returncode == 0, told.stderr
    assert "a device cannot be made here" in told.stdout
    assert "its owner cannot be kept here" in told.stdout
    assert (place / "out/setid").stat().st_mode & 0o7777 == 0o755
    assert (place / "out/d/large").read_bytes() == (tree / "d/large").read_bytes()
    assert not (place / "out/char").exists()
