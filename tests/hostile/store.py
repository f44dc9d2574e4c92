"""A store with something of every kind in it, closed; and what an engine makes of it after somebody damaged a file.

``python -m tests.hostile.store STORE`` examines one in a process of its own, for damage that may end the process.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cowfs.engine import Engine
from cowfs.errors import CowfsError
from cowfs.view.inode import Caller
from tests.support.store import Ids, TestStore, Ticks
from tests.support.treehash import hash_view

NOBODY = Caller(0, 0, 1, 0o022, 5, 6)
NAMES = ("settled", "frozen", "live", "other")
"""``settled``: its journal counts no more; ``frozen``: a snapshot without a root; ``live``: changes only."""


class Sample(NamedTuple):
    """A closed store; ``trees`` has each hash that a workspace had since its last durable point, newest first."""

    path: Path
    trees: dict[str, list[str]]
    glances: dict[str, str]


def make_sample(path: Path) -> Sample:
    """Make the store at ``path``."""
    store = TestStore(path)
    trees: dict[str, list[str]] = {name: [] for name in (*NAMES, "fork")}
    try:
        for name in NAMES:
            store.engine.create(name)
            for _ in _fill(store, name, 12):
                pass
            store.engine.checkpoint(name, f"first of {name}", label="first")
        store.engine.settle()
        for name in NAMES:
            trees[name].append(_hash(store, name))
            if name != "settled":
                trees[name] += [_hash(store, name) for _ in _fill(store, name, 4, b"later")]
        store.engine.checkpoint("frozen", "no root yet")
        store.engine.fork("settled@first", "fork")
        trees["fork"].append(_hash(store, "fork"))
        glances = {name: glance(store.workspace(name).view) for name in trees}
    finally:
        store.close()
    return Sample(path, {name: found[::-1] for name, found in trees.items()}, glances)


def _hash(store: TestStore, name: str) -> str:
    return hash_view(store.workspace(name).view).total


def _fill(store: TestStore, name: str, files: int, prefix: bytes = b"file") -> Iterator[None]:
    """Some of everything; a step for each record in the journal."""
    view = store.workspace(name).view
    top = view.mkdir(1, prefix + b"s", 0o755, NOBODY).ino
    yield
    for number in range(files):
        file = view.mknod(top, prefix + b"%d" % number, stat.S_IFREG | 0o644, 0, NOBODY).ino
        yield
        view.write(file, 0, b"%s %d\n" % (name.encode(), number) * (1 + number * 90), NOBODY)
        yield
    calls: tuple[tuple[Callable[..., object], tuple[object, ...]], ...] = (
        (view.link, (file, 1, prefix + b"-link")),
        (view.symlink, (1, prefix + b"-symlink", b"a/target")),
        (view.setxattr, (file, b"user.note", b"\0\xff", 0)),
        (view.rename, (top, prefix + b"0", 1, prefix + b"-moved", 0)),
        (view.unlink, (top, prefix + b"1")),
        (view.write, (file, 1 << 20, b"far")),
    )
    for call, arguments in calls:
        call(*arguments, NOBODY)
        yield


class Seen(NamedTuple):
    """What an engine made of a store.

    ``refused``: code and message when it did not open; else ``trees`` has each workspace's hash, or the error that
    came instead, and ``problems`` counts what fsck found (-1: it could not look). ``defects``: what must not happen.
    """

    refused: tuple[str, str] | None
    trees: dict[str, str]
    problems: int
    defects: list[str]


def examine(path: Path, tree: Callable[[Any], str] = lambda view: hash_view(view).total) -> Seen:
    """Open the store, look at everything in it, and close it again. ``tree``: how to look at a view."""
    defects: list[str] = []
    try:
        engine = Engine.open(path, Ticks(1_800_000_000_000_000_000), _later_ids())
    except BaseException as error:
        return Seen((_judge(error, "open", defects), str(error)), {}, -1, defects)
    trees, problems = {}, -1
    try:
        for name in (*NAMES, "fork"):
            trees[name] = _attempt(lambda name=name: tree(_view(engine, name)), name, defects)  # type: ignore[misc]
            _attempt(lambda name=name: repr(engine.log(name)), name, defects)  # type: ignore[misc]
            _attempt(lambda name=name: repr(engine.diff(f"{name}@first", name)), name, defects)  # type: ignore[misc]
        found = _attempt(lambda: str(len(engine.fsck(deep=True))), "fsck", defects)
        problems = int(found) if found.isdigit() else -1
        _attempt(lambda: repr(engine.stat()), "stat", defects)
    finally:
        _attempt(lambda: repr(engine.close()), "close", defects)  # type: ignore[func-returns-value]
    return Seen(None, trees, problems, defects)


def _view(engine: Engine, name: str) -> Any:
    return engine.host.workspace(engine.open_workspace(name)).view


def glance(view: Any) -> str:
    """Every name, attribute and link target, and the ends of every file, however long it claims to be."""
    digest = hashlib.blake2b()
    queue, seen = [1], {1}
    while queue:
        top = queue.pop()
        for _, name, ino, kind in view.readdir(top, 2):
            inode = view.inode(ino)
            digest.update(repr((top, name, ino, kind, inode.mode, inode.size, inode.nlink)).encode())
            digest.update(repr(view.listxattr(ino)).encode())
            if stat.S_ISREG(inode.mode):
                digest.update(view.read(ino, 0, 8192) + view.read(ino, max(inode.size - 8192, 0), 8192))
            elif stat.S_ISLNK(inode.mode):
                digest.update(view.readlink(ino))
            elif stat.S_ISDIR(inode.mode) and ino not in seen:
                seen.add(ino)
                queue.append(ino)
    return digest.hexdigest()


def _later_ids() -> Ids:
    """Ids that the store does not have yet."""
    ids = Ids()
    ids._numbers = itertools.count(900_000)
    return ids


def _attempt(call: Callable[[], str], what: str, defects: list[str]) -> str:
    try:
        return call()
    except BaseException as error:
        return _judge(error, what, defects) + ": " + str(error)


def _judge(error: BaseException, what: str, defects: list[str]) -> str:
    """The code of an error; one that is not documented is a defect."""
    if isinstance(error, CowfsError) and error.code != "internal":
        if not error.message or "\n" in error.message:
            defects.append(f"{what}: not one line: {error.message!r}")
        return error.code
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE):  # those of a view
        return errno.errorcode[error.errno]
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-1]
    defects.append(f"{what}: {type(error).__name__}: {error} at {where.filename.rpartition('/')[2]}:{where.lineno}")
    return type(error).__name__


VOLATILE = {"lock"}
"""Files that opening a store may change: who owns it."""


def fingerprint(path: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Relative path -> hash of content, of every file of a store that nobody may change on the way to an error."""
    found = {}
    for folder, _, files in os.walk(path):
        for file in files:
            at = Path(folder, file)
            name = str(at.relative_to(path))
            if name not in VOLATILE and name not in without and not name.startswith(("index/lock", "daemon/")):
                found[name] = hashlib.blake2b(at.read_bytes()).hexdigest()
    return found


def main(path: str) -> None:
    """Print what :func:`examine` saw, as JSON."""
    seen = examine(Path(path))
    fields: dict[str, Any] = seen._asdict()
    print(json.dumps(fields))


if __name__ == "__main__":
    main(sys.argv[1])
