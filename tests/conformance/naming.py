"""Cases about names: open, create, link, unlink, rename, and paths that are odd."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from tests.conformance import calls
from tests.conformance.case import Case
from tests.conformance.scene import KINDS, OWNER, ROOT, STRANGERS, USERS, Scene

FLAGS = {
    "rdonly": os.O_RDONLY, "wronly": os.O_WRONLY, "rdwr": os.O_RDWR, "3": 3, "creat": os.O_CREAT,
    "excl": os.O_CREAT | os.O_EXCL, "creat+trunc": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "trunc": os.O_WRONLY | os.O_TRUNC, "rdonly+trunc": os.O_TRUNC, "append": os.O_WRONLY | os.O_APPEND,
    "rdwr+append+creat": os.O_RDWR | os.O_APPEND | os.O_CREAT, "directory": os.O_DIRECTORY,
    "directory+rdwr": os.O_DIRECTORY | os.O_RDWR, "directory+creat": os.O_DIRECTORY | os.O_CREAT,
    "nofollow": os.O_NOFOLLOW, "nofollow+creat": os.O_NOFOLLOW | os.O_CREAT | os.O_WRONLY,
    "path": os.O_PATH, "path+nofollow": os.O_PATH | os.O_NOFOLLOW, "path+directory": os.O_PATH | os.O_DIRECTORY,
    "tmpfile": os.O_TMPFILE | os.O_RDWR, "tmpfile+excl": os.O_TMPFILE | os.O_RDWR | os.O_EXCL,
    "tmpfile+rdonly": os.O_TMPFILE, "direct": os.O_RDONLY | os.O_DIRECT, "sync": os.O_RDWR | os.O_SYNC,
    "dsync+append": os.O_WRONLY | os.O_DSYNC | os.O_APPEND, "noatime": os.O_NOATIME,
    "excl+trunc": os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TRUNC,
}  # fmt: skip

MODES = (0o000, 0o600, 0o440, 0o644, 0o060, 0o006, 0o755, 0o777, 0o6755)
PARENTS = (0o755, 0o777, 0o1777, 0o2775, 0o775, 0o500, 0o333)


def _object(kind: str, mode: int, parent: int = 0o777) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        scene.directories()
        scene.make("d/x", kind, mode)
        os.chmod("d", parent)

    return prepare


def _try_open(flags: int, path: str = "d/x") -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        fd = scene.open("open", path, flags, 0o640)
        if fd is None:
            return
        if not flags & os.O_DIRECT:
            scene.do("read", os.pread, fd, 10, 0)
            scene.do("write", os.write, fd, b"zz")
        scene.do("mode of the descriptor", lambda: stat.S_IFMT(os.fstat(fd).st_mode))

    return act


def opening() -> Iterator[Case]:
    """Every way to open, each kind of file, each user."""
    for kind, (name, flags) in product(KINDS, FLAGS.items()):
        for user in (ROOT, OWNER):
            yield Case(f"open/{kind}/{name}/{user.name}", _object(kind, 0o644), _try_open(flags), user)
    for kind, mode, name, user in product(
        ("file", "dir", "hard", "fifo", "tolink"), MODES, ("rdonly", "wronly", "rdwr", "trunc", "creat+trunc", "path"),
        USERS,
    ):  # fmt: skip
        yield Case(f"open-mode/{kind}/{mode:o}/{name}/{user.name}", _object(kind, mode), _try_open(FLAGS[name]), user)


Made = tuple[str, Callable[..., Any], tuple[Any, ...]]


def _makers() -> list[Made]:
    device = os.makedev(1, 3)
    return [
        ("mkdir", os.mkdir, ("d/x", 0o775)),
        ("mkdir-sticky", os.mkdir, ("d/x", 0o7777)),
        ("file", os.mknod, ("d/x", stat.S_IFREG | 0o664)),
        ("file-setid", os.mknod, ("d/x", stat.S_IFREG | 0o6775)),
        ("typeless", os.mknod, ("d/x", 0o644)),
        ("fifo", os.mknod, ("d/x", stat.S_IFIFO | 0o664)),
        ("socket", os.mknod, ("d/x", stat.S_IFSOCK | 0o664)),
        ("char", os.mknod, ("d/x", stat.S_IFCHR | 0o664, device)),
        ("whiteout", os.mknod, ("d/x", stat.S_IFCHR | 0o664, 0)),
        ("block", os.mknod, ("d/x", stat.S_IFBLK | 0o664, device)),
        ("directory-by-mknod", os.mknod, ("d/x", stat.S_IFDIR | 0o755)),
        ("symlink", os.symlink, ("target", "d/x")),
        ("symlink-long", os.symlink, ("t" * 300, "d/x")),
        ("link", os.link, ("e/old", "d/x")),
        ("creat", lambda path: os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o664)), ("d/x",)),
        (
            "creat-setid",
            lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, 0o6775)),
            ("d/x",),
        ),
        ("tmpfile", lambda path: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR, 0o664)), ("d",)),
    ]


def making() -> Iterator[Case]:
    """Everything that makes a name: in directories of each mode, by each user, over each kind of file."""

    def prepare(parent: int, kind: str) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            _object(kind, 0o644, parent)(scene)
            scene.make("e/old", "file", 0o666)

        return run

    def act(call: Callable[..., Any], arguments: tuple[Any, ...], umask: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            old = os.umask(umask)
            try:
                scene.do("make", call, *arguments)
            finally:
                os.umask(old)

        return run

    for (name, call, arguments), parent, user in product(_makers(), PARENTS, USERS):
        yield Case(f"make/{name}/{parent:o}/{user.name}", prepare(parent, "missing"), act(call, arguments, 0o022), user)
    for (name, call, arguments), kind in product(_makers(), KINDS):
        yield Case(f"make-over/{name}/{kind}", prepare(0o777, kind), act(call, arguments, 0))


def linking() -> Iterator[Case]:
    """Hard links to each kind of file, by path and by descriptor, by each user."""

    def act(scene: Scene) -> None:
        scene.do("link", calls.linkat, calls.HERE, b"d/x", b"e/new", 0)
        scene.do("link, followed", calls.linkat, calls.HERE, b"d/x", b"e/followed", calls.SYMLINK_FOLLOW)

    def by_descriptor(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_PATH | os.O_NOFOLLOW)
        scene.do("link", calls.linkat, fd, b"", b"e/new", calls.EMPTY_PATH)

    def unnamed(flags: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.open("open", "d", os.O_TMPFILE | os.O_RDWR | flags, 0o644)
            if fd is not None:
                scene.do("write", os.write, fd, b"first")
                scene.do("link", calls.linkat, calls.HERE, b"/proc/self/fd/%d" % fd, b"e/new", calls.SYMLINK_FOLLOW)
                scene.do("link again", calls.linkat, fd, b"", b"e/new2", calls.EMPTY_PATH)

        return run

    def unlinked(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDWR)
        scene.do("unlink", os.unlink, "d/x")
        scene.do("link", calls.linkat, calls.HERE, b"/proc/self/fd/%d" % fd, b"e/new", calls.SYMLINK_FOLLOW)
        scene.do("links", lambda: os.fstat(fd).st_nlink)

    for kind, mode, user in product(KINDS, (0o644, 0o666, 0o4755, 0o2755), USERS):
        yield Case(f"link/{kind}/{mode:o}/{user.name}", _object(kind, mode), act, user)
    for kind, user in product(KINDS[:-1], (ROOT, OWNER)):
        yield Case(f"link-descriptor/{kind}/{user.name}", _object(kind, 0o644), by_descriptor, user)
    for user in USERS:
        yield Case(f"link-tmpfile/{user.name}", _object("missing", 0), unnamed(0), user)
        yield Case(f"link-tmpfile-excl/{user.name}", _object("missing", 0), unnamed(os.O_EXCL), user)
        yield Case(f"link-unlinked/{user.name}", _object("file", 0o666), unlinked, user)


def removing() -> Iterator[Case]:
    """unlink and rmdir: each kind of file, each mode of the directory, each user."""

    def act(call: Callable[[str], None]) -> Callable[[Scene], None]:
        return lambda scene: scene.do("remove", call, "d/x")

    for kind, parent, user in product(KINDS, PARENTS, USERS):
        for name, call in (("unlink", os.unlink), ("rmdir", os.rmdir)):
            yield Case(f"{name}/{kind}/{parent:o}/{user.name}", _object(kind, 0o644, parent), act(call), user)

    def foreign(scene: Scene) -> None:
        _object("file", 0o644, 0o1777)(scene)
        os.chown("d", 0, 0)

    for user in STRANGERS:
        yield Case(f"unlink-in-sticky/{user.name}", foreign, act(os.unlink), user)


def renaming() -> Iterator[Case]:
    """renameat2: each kind over each kind with each flag; each mode of both directories by each user."""

    def prepare(old: str, new: str, parent: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            scene.directories()
            scene.make("d/x", old)
            scene.make("e/y", new, uid=OWNER.uid if parent != 0o1777 else 0)
            os.chmod("d", parent)
            os.chmod("e", parent)

        return run

    def act(flags: int) -> Callable[[Scene], None]:
        return lambda scene: scene.do("rename", calls.rename, b"d/x", b"e/y", flags)

    for old, new, flags in product(KINDS, KINDS, range(8)):
        yield Case(f"rename/{old}/{new}/{flags}", prepare(old, new, 0o777), act(flags))
    for old, new, parent, user in product(("file", "dir"), ("missing", "file", "dir"), PARENTS, USERS):
        for flags in (0, 1, 2, 4):
            name = f"rename-by/{old}/{new}/{parent:o}/{flags}/{user.name}"
            yield Case(name, prepare(old, new, parent), act(flags), user)
    yield from _odd_renames()


def _odd_renames() -> Iterator[Case]:
    def prepare(scene: Scene) -> None:
        scene.directories()
        scene.make("d/x", "file")
        os.link("d/x", "e/same")
        scene.make("d/sub", "full")

    pairs = [
        ("d/x", "e/same"), ("d/x", "d/x"), ("d/sub", "d/sub/below"), ("d/sub/inside", "d/sub"), ("d/sub", "d"),
        ("d/.", "e/z"), ("d/..", "e/z"), ("d/sub", "e/."), ("d/sub/", "e/z/"), ("d/x/", "e/z"), ("d/x", "e/z/"),
        ("d/sub", "e/z/"), ("", "e/z"), ("d/x", ""), ("d/x", "nowhere/z"), ("d/x", "d/x/z"), (".", "e/z"), ("d", "e"),
    ]  # fmt: skip

    def act(old: str, new: str, flags: int) -> Callable[[Scene], None]:
        return lambda scene: scene.do("rename", calls.rename, old.encode(), new.encode(), flags)

    for (old, new), flags in product(pairs, (0, 1, 2, 4, 6, 8)):
        yield Case(f"rename-odd/{old or '-'}:{new or '-'}/{flags}", prepare, act(old, new, flags))


PATHS = {
    "long": "d/" + "n" * 255, "too-long": "d/" + "n" * 256, "too-long-inside": "d/" + "n" * 256 + "/x",
    "path-long": "d/" + "./" * 2046 + "x", "path-too-long": "d/" + "./" * 2048 + "x", "slash": "d/x/",
    "slashes": "d//x", "dot": "d/x/.", "dotdot": "d/x/..", "below-missing": "d/no/x", "below-file": "d/f0/x",
    "through-loop": "d/loop/x", "of-loop": "d/loop", "empty": "", "here": ".", "above": "d/..",
    "through-links-40": "d/l40/x", "through-links-41": "d/l41/x", "link-slash": "d/tof/", "dirlink-slash": "d/tog/",
    "missing-slash": "d/new/", "dangling-slash": "d/dangling/", "not-utf8": "d/\udcff\udcfe",
}  # fmt: skip


def paths() -> Iterator[Case]:
    """Each call that takes a path, with each odd path."""

    def prepare(scene: Scene) -> None:
        scene.directories()
        for name, kind in [("x", "file"), ("f0", "file"), ("loop", "loop"), ("dangling", "dangling"), ("l0", "dir")]:
            scene.make("d/" + name, kind)
        for number in range(1, 42):
            os.symlink(f"l{number - 1}", f"d/l{number}")
        os.symlink("f0", "d/tof")
        os.symlink("l0", "d/tog")

    def act(call: Callable[[str], Any], path: str) -> Callable[[Scene], None]:
        return lambda scene: scene.do("call", call, path)

    one: dict[str, Callable[[str], Any]] = {
        "stat": lambda path: os.stat(path).st_mode, "lstat": lambda path: os.lstat(path).st_mode,
        "open": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)),
        "creat": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, 0o644)),
        "excl": lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NONBLOCK, 0o644)),
        "directory": lambda path: os.close(os.open(path, os.O_DIRECTORY)),
        "opath": lambda path: os.close(os.open(path, os.O_PATH | os.O_NOFOLLOW)),
        "mkdir": os.mkdir, "mknod": lambda path: os.mknod(path, stat.S_IFIFO | 0o600), "unlink": os.unlink,
        "rmdir": os.rmdir, "symlink": lambda path: os.symlink("to", path), "readlink": os.readlink,
        "link-from": lambda path: os.link(path, "e/new", follow_symlinks=False),
        "link-to": lambda path: os.link("d/x", path),
        "rename-from": lambda path: os.rename(path, "e/new"), "rename-to": lambda path: os.rename("d/x", path),
        "chmod": lambda path: os.chmod(path, 0o600), "lchown": lambda path: os.lchown(path, 1001, 2001),
        "truncate": lambda path: os.truncate(path, 3), "utime": lambda path: os.utime(path, (1, 2)),
        "access": lambda path: calls.faccess(os.fsencode(path), os.R_OK, 0),
        "getxattr": lambda path: os.getxattr(path, "user.a"),
        "setxattr": lambda path: os.setxattr(path, "user.a", b"1", follow_symlinks=False),
        "statfs": lambda path: os.statvfs(path).f_namemax, "listdir": lambda path: sorted(os.listdir(path)),
        "chdir": lambda path: os.close(os.open(path, os.O_PATH | os.O_DIRECTORY)),
    }  # fmt: skip
    for (path_name, path), (call_name, call) in product(PATHS.items(), one.items()):
        yield Case(f"path/{call_name}/{path_name}", prepare, act(call, path))


def all_cases() -> Iterator[Case]:
    """Everything here."""
    for cases in (opening, making, linking, removing, renaming, paths):
        yield from cases()
