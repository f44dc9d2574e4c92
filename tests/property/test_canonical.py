"""A root is a function of the state alone: not of layers, restarts, detours or restores on the way to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.geometry import Geometry
from cowfs.view.inode import Caller, SetAttr
from cowfs.view.view import View
from tests.property.operations import pattern
from tests.support.store import TestStore

NOON = 1_700_000_000_000_000_000
"""The clock stands still, so that a detour leaves no trace in the times."""

WHO = Caller()
REGULAR = 0o100644

Step = tuple[str, int, int, int, int]
"""(what to do, directory, name, and two numbers that mean what they mean there)."""

kinds = ["file", "file", "mkdir", "symlink", "link", "unlink", "rename", "write", "write", "cut", "punch", "xattr"]
sizes = st.sampled_from([1, 600, 4096, 5000, 140_000])
steps = st.tuples(st.sampled_from(kinds), st.integers(0, 3), st.integers(0, 5), st.integers(0, 5), sizes)
detours = st.sampled_from(
    ["checkpoint", "settle", "freeze", "reopen", "restore", "rewrite", "temporary", "chmod", "grow", "xattr"]
)


def name(number: int) -> bytes:
    """One of a few names."""
    return b"name-%d" % number


def directory(view: View, number: int) -> int:
    """The root or a directory in it."""
    found = view.lookup(1, name(number))
    return found.ino if found is not None and found.is_dir else 1


def do(view: View, step: Step) -> None:
    """One step; what cannot be done now is left out, in every history alike."""
    what, where, which, other, size = step
    with contextlib.suppress(OSError):
        parent = directory(view, where)
        if what == "file":
            view.mknod(parent, name(which), REGULAR, 0, WHO)
        elif what == "mkdir":
            view.mkdir(parent, name(which), 0o755, WHO)
        elif what == "symlink":
            view.symlink(parent, name(which), b"t" * min(size, 4000), WHO)
        elif what == "unlink":
            view.unlink(parent, name(which), WHO)
        elif what == "rename":
            view.rename(parent, name(which), directory(view, other), name(other), 0, WHO)
        else:
            found = view.lookup(parent, name(which))
            if found is None:
                return
            if what == "link":
                view.link(found.ino, directory(view, other), name(other), WHO)
            elif what == "write":
                view.write(found.ino, other * 3000, pattern(which, size), WHO)
            elif what == "cut":
                view.setattr(found.ino, SetAttr(size=size), WHO)
            elif what == "punch":
                view.fallocate(found.ino, 3, other * 2048, size, WHO)
            else:
                view.setxattr(found.ino, b"user.%d" % other, pattern(which, min(size, 5000)), 0, WHO)


def go_astray(store: TestStore, detour: str) -> None:
    """Something that ends in the state in which it began."""
    engine, view = store.engine, store.workspace("ws").view
    if detour == "checkpoint":
        engine.checkpoint("ws", "on the way")
    elif detour == "settle":
        engine.settle()
    elif detour == "freeze":
        engine._branches.commit(*engine.host.freeze(engine.open_workspace("ws"), store.ids("lay")).operations)
    elif detour == "reopen":
        store.reopen()
    elif detour == "restore":
        here = engine.checkpoint("ws", "turn back to here").snapshot.id
        view.mkdir(1, b"elsewhere", 0o755, WHO)
        engine.restore("ws", here)
    elif detour == "temporary":
        view.mknod(1, b"temporary", REGULAR, 0, WHO)
        view.unlink(1, b"temporary", WHO)
    else:
        for _, _, ino, kind in list(view.readdir(1, 2)):
            if kind == 8:
                change_and_change_back(view, ino, detour)


def change_and_change_back(view: View, ino: int, detour: str) -> None:
    """A change to a regular file, and its reverse."""
    inode = view.inode(ino)
    size, mode = inode.size, inode.mode
    if detour == "chmod":
        view.setattr(ino, SetAttr(mode=0o4711), WHO)
        view.setattr(ino, SetAttr(mode=mode), WHO)
    elif detour == "grow":
        view.setattr(ino, SetAttr(size=size + 1_000_000), WHO)
        view.setattr(ino, SetAttr(size=size), WHO)
    elif detour == "xattr":
        view.setxattr(ino, b"user.passing", b"by" * 2000, 0, WHO)
        view.removexattr(ino, b"user.passing", WHO)
    elif detour == "rewrite" and size:
        at = size - 1 - (size - 1) % 4096
        with contextlib.suppress(OSError):  # a hole there would not come back
            if view.seek(ino, at, 3) == at:
                before = view.read(ino, at, 4096)
                view.write(ino, at, bytes(byte ^ 255 for byte in before), WHO)
                view.write(ino, at, before, WHO)


def root_of(geometry: Geometry, program: Sequence[Step], astray: Callable[[int], str | None]) -> str:
    """The root after ``program``, with a detour after step i when ``astray(i)`` names one."""
    path = Path(tempfile.mkdtemp(prefix="cowfs-canonical-"))
    try:
        store = TestStore(path / "store", lambda: NOON, geometry)
        store.engine.create("ws")
        for number, step in enumerate(program):
            do(store.workspace("ws").view, step)
            if (detour := astray(number)) is not None:
                go_astray(store, detour)
        last = store.engine.checkpoint("ws", "arrived", allow_empty=True).snapshot.id
        store.engine.settle()
        root = store.engine.snapshot(last).root
        assert not store.engine.fsck(deep=True)
        store.close()
        assert root is not None
        return root
    finally:
        shutil.rmtree(path)


@settings(max_examples=25)
@given(
    program=st.lists(steps, min_size=1, max_size=25),
    ways=st.dictionaries(st.integers(0, 24), detours, max_size=6),
    geometry=st.sampled_from([Geometry(), Geometry(inline_limit=0, leaf_limit=256, block_log2=12)]),
)
def test_the_root_does_not_depend_on_the_way(program: list[Step], ways: dict[int, str], geometry: Geometry) -> None:
    # Numbers are never given twice, so a file made for a while may only come last.
    ways = {at: way for at, way in ways.items() if way not in ("temporary", "restore") or at == len(program) - 1}
    assert root_of(geometry, program, ways.get) == root_of(geometry, program, lambda _: None)


def test_equal_trees_import_to_one_root_and_store_nothing(tmp_path: Path) -> None:
    for tree in ("a", "b"):
        (tmp_path / tree / "sub").mkdir(parents=True)
        for number in range(50):
            path = tmp_path / tree / "sub" / str(number)
            path.write_bytes(pattern(number, number * 5000))
            path.chmod(0o600 + number % 8)
        (tmp_path / tree / "link").hardlink_to(tmp_path / tree / "sub" / "7")
    times = {p.relative_to(tmp_path / "a"): p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    for path, mtime in sorted(times.items(), reverse=True):
        copy_times(tmp_path / "b" / path, mtime)
    copy_times(tmp_path / "b", (tmp_path / "a").stat().st_mtime_ns)
    store = TestStore(tmp_path / "store")
    roots = []
    sizes = []
    for tree in ("a", "b"):
        store.engine.import_tree(bytes(tmp_path / tree), tree, (), lambda progress: None)
        taken = store.engine.checkpoint(tree, "imported", allow_empty=True).snapshot.id
        store.engine.settle()
        roots.append(store.engine.snapshot(taken).root)
        sizes.append(store.engine.stat().stored_bytes)
    assert roots[0] == roots[1]
    assert sizes[0] == sizes[1] > 0
    store.close()


def copy_times(path: Path, mtime: int) -> None:
    """Set the modification time in ns."""
    os.utime(path, ns=(mtime, mtime))
