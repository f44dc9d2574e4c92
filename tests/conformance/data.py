"""Cases about data: holes, ranges, copies, mappings, and what watches or lists files."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tests.conformance import calls
from tests.conformance.case import Case
from tests.conformance.child import in_child
from tests.conformance.scene import CONTENT, KINDS, OTHER, OWNER, ROOT, USERS, Scene

MODES = {
    "allocate": 0, "keep": 1, "punch": 3, "punch-alone": 2, "zero": 16, "zero-keep": 17, "collapse": 8, "insert": 32,
    "unknown": 0x1000,
}  # fmt: skip
RANGES = ((0, 4096), (1, 10), (4096, 4096), (100, 9000), (0, 0), (-1, 5), (5, -1), (60_000, 70_000), (1 << 20, 4096))


def _prepare(kind: str = "file") -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        scene.directories()
        scene.make("d/x", kind, 0o666)
        scene.make("d/y", "sparse", 0o666)

    return run


def allocating() -> Iterator[Case]:
    """fallocate: each mode, range and kind; then where data and holes are."""

    def act(mode: int, offset: int, length: int, flags: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", flags)
            scene.do("fallocate", calls.fallocate, fd, mode, offset, length)

        return run

    for kind, (name, mode), (offset, length) in product(("file", "empty", "sparse"), MODES.items(), RANGES):
        yield Case(f"fallocate/{kind}/{name}/{offset}+{length}", _prepare(kind), act(mode, offset, length, os.O_RDWR))
    for kind, (name, mode) in product(("file", "dir", "fifo"), MODES.items()):
        yield Case(f"fallocate-rdonly/{kind}/{name}", _prepare(kind), act(mode, 0, 4096, os.O_RDONLY))
    for name, mode in MODES.items():
        yield Case(f"fallocate-append/{name}", _prepare(), act(mode, 0, 4096, os.O_RDWR | os.O_APPEND))


def seeking() -> Iterator[Case]:
    """SEEK_DATA, SEEK_HOLE and the others."""

    def act(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDONLY)
        for whence, offset in product(range(6), (-1, 0, 1, 4096, 5020, 5021, 65_536, 65_600, 150_000, 200_000)):
            scene.do(f"lseek {whence} {offset}", os.lseek, fd, offset, whence)

    def far(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDONLY)
        for whence in range(6):
            scene.do(f"lseek {whence}", os.lseek, fd, 1 << 50, whence)
            scene.do("back", os.lseek, fd, 0, os.SEEK_SET)

    for kind in ("file", "empty", "sparse", "fifo"):
        yield Case(f"seek/{kind}", _prepare(kind), act)
        yield Case(f"seek-far/{kind}", _prepare(kind), far)


def copying() -> Iterator[Case]:
    """copy_file_range and FICLONE: kinds, ranges, flags of the descriptors, overlaps."""

    def act(source: str, target: str, flags: int, at: tuple[int, int, int]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            out = scene.root_open(target, flags)
            fd = out if source == "same" else scene.root_open(source, os.O_RDONLY)
            scene.do("copy", lambda: os.copy_file_range(fd, out, at[2], at[0], at[1]))
            scene.do("clone", fcntl.ioctl, out, calls.FICLONE, fd)
            scene.do("position", os.lseek, out, 0, os.SEEK_CUR)

        return run

    spots = [
        (0, 0, 5020),
        (0, 0, 100_000),
        (100, 8192, 4096),
        (6000, 0, 10),
        (0, 300_000, 100),
        (0, 100, 1000),
        (0, 0, 0),
    ]
    for kind, spot in product(("file", "empty", "sparse", "hard"), spots):
        yield Case(f"copy/{kind}/{spot}", _prepare(kind), act("d/x", "d/y", os.O_RDWR, spot))
        yield Case(f"copy-same/{kind}/{spot}", _prepare(kind), act("same", "d/x", os.O_RDWR, spot))
    for kind, flags in product(("file", "fifo", "dir"), (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND)):
        yield Case(f"copy-flags/{kind}/{flags}", _prepare(kind), act("d/x", "d/y", flags, (0, 0, 50)))


def mapping() -> Iterator[Case]:
    """mmap: protections and flags against each way to open; reads, writes and faults behind the end."""
    ways = {"rdonly": os.O_RDONLY, "wronly": os.O_WRONLY, "rdwr": os.O_RDWR, "append": os.O_RDWR | os.O_APPEND}
    kinds = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}

    def use(fd: int, flags: int, protection: int, at: int) -> str:
        with mmap.mmap(fd, 8192, flags, protection) as mapped:
            if protection & mmap.PROT_WRITE:
                mapped[at] = 33
                mapped.flush()
            return f"{mapped[at]} {os.pread(fd, 1, at)!r}"

    def act(way: int, flags: int, protection: int, cut: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd = scene.root_open("d/x", way)
            os.truncate("d/x", 8192)
            with_cut = lambda: (os.truncate("d/x", cut), use_cut(fd))[1]  # noqa: E731

            def use_cut(fd: int) -> str:
                with mmap.mmap(fd, 8192, flags, protection) if cut == 8192 else _grown(fd, flags, protection, cut) as m:
                    return str(m[5000])

            scene.do("near", lambda: in_child(lambda: use(fd, flags, protection, 17)))
            scene.do("far", lambda: in_child(lambda: use(fd, flags, protection, 8000)))
            scene.do("behind the end", lambda: in_child(with_cut))

        return run

    for (way, opened), (kind, flags), protection, cut in product(ways.items(), kinds.items(), (1, 3), (0, 4096, 4500)):
        yield Case(f"mmap/{kind}/{way}/{protection}/{cut}", _prepare(), act(opened, flags, protection, cut))


def _grown(fd: int, flags: int, protection: int, size: int) -> mmap.mmap:
    """A mapping of 8192 bytes of a file that is cut to ``size`` afterwards."""
    os.truncate("d/x", 8192)
    mapped = mmap.mmap(fd, 8192, flags, protection)
    os.truncate("d/x", size)
    return mapped


def handles() -> Iterator[Case]:
    """name_to_handle_at and open_by_handle_at: each kind, by each user."""

    def act(scene: Scene) -> None:
        mount = scene.root_open(".", os.O_RDONLY | os.O_DIRECTORY)
        handle = scene.do("name", lambda: calls.name_to_handle(b"d/x") and None)
        try:
            handle = calls.name_to_handle(b"d/x")
        except OSError:
            return

        def opened(flags: int) -> bool:
            fd = scene.keep(calls.open_by_handle(mount, handle, flags))
            return os.path.samestat(os.fstat(fd), os.lstat("d/x"))

        for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR | os.O_NONBLOCK, os.O_PATH):
            scene.do(f"open {flags}", opened, flags)
        scene.do("rename", os.rename, "d/x", "e/moved")
        scene.do("open, moved", lambda: scene.keep(calls.open_by_handle(mount, handle, os.O_PATH)) and None)

    def gone(held: bool) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            mount, handle = scene.root_open(".", os.O_RDONLY | os.O_DIRECTORY), calls.name_to_handle(b"d/x")
            if held:
                scene.root_open("d/x", os.O_PATH | os.O_NOFOLLOW)
            opened = lambda: scene.keep(calls.open_by_handle(mount, handle, os.O_PATH)) and None  # noqa: E731
            scene.do("remove", os.rmdir if os.path.isdir("d/x") and not os.path.islink("d/x") else os.unlink, "d/x")
            scene.do("open, gone", opened)
            os.mknod("d/x", 0o600)  # ext4 may give it the number that got free
            scene.say("open, made anew", in_child(opened))

        return run

    for kind, user in product(KINDS, (ROOT, OWNER)):
        yield Case(f"handle/{kind}/{user.name}", _prepare(kind), act, user)
    for kind, held in product((kind for kind in KINDS if kind not in ("full", "missing")), (False, True)):
        yield Case(f"handle-gone/{kind}/{'held' if held else 'closed'}", _prepare(kind), gone(held))


def watching() -> Iterator[Case]:
    """inotify: what each change tells about a directory and about the file."""
    changes: dict[str, Callable[[], Any]] = {
        "create": lambda: os.close(os.open("d/new", os.O_CREAT | os.O_WRONLY)), "mkdir": lambda: os.mkdir("d/new"),
        "unlink": lambda: os.unlink("d/x"), "rename": lambda: os.rename("d/x", "d/z"),
        "link": lambda: os.link("d/x", "d/z"),
        "move out": lambda: os.rename("d/x", "e/z"), "over": lambda: os.rename("d/x", "d/y"),
        "exchange": lambda: calls.rename(b"d/x", b"d/y", calls.EXCHANGE), "chmod": lambda: os.chmod("d/x", 0o600),
        "write": lambda: Path("d/x").write_bytes(b"new"), "cut": lambda: os.truncate("d/x", 1),
        "read": lambda: Path("d/x").read_bytes(), "list": lambda: os.listdir("d"), "utime": lambda: os.utime("d/x"),
        "setxattr": lambda: os.setxattr("d/x", "user.a", b"1"), "symlink": lambda: os.symlink("to", "d/new"),
        "mknod": lambda: os.mknod("d/new", 0o10600), "chown": lambda: os.chown("d/x", 5, 5),
        "allocate": lambda: _with("d/x", lambda fd: calls.fallocate(fd, 0, 0, 9000)),
        "append": lambda: _with("d/x", lambda fd: os.write(fd, b"1")),
    }  # fmt: skip

    def act(change: Callable[[], Any]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            watches = [scene.keep(calls.watch(path, 0xFFF)) for path in (b"d", b"d/x")]
            try:
                change()
            except OSError as error:
                scene.say("failed", error.errno)
            for watch in watches:
                scene.say("events", calls.events(watch))

        return run

    for name, change in changes.items():
        yield Case(f"inotify/{name}", _prepare(), act(change))


def _with(path: str, call: Callable[[int], Any]) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        call(fd)
    finally:
        os.close(fd)


def executing() -> Iterator[Case]:
    """ETXTBSY both ways."""

    def prepare(scene: Scene) -> None:
        scene.directories()
        Path("d/x").write_bytes(Path("/bin/sleep").read_bytes())
        os.chmod("d/x", 0o755)

    def run(path: str) -> int:
        return os.waitpid(os.posix_spawn(path, [path, "0"], {}), 0)[1]

    def while_written(scene: Scene) -> None:
        fd = os.open("d/x", os.O_RDWR)
        scene.do("exec", run, "d/x")
        os.close(fd)
        scene.do("exec, closed", run, "d/x")

    def while_running(scene: Scene) -> None:
        pid = os.posix_spawn("d/x", ["d/x", "100"], {})
        try:
            scene.do("write", lambda: os.close(os.open("d/x", os.O_WRONLY)))
            scene.do("cut", os.truncate, "d/x", 0)
            scene.do("chmod", os.chmod, "d/x", 0o700)
            scene.do("trunc", lambda: os.close(os.open("d/x", os.O_TRUNC)))
            scene.do("unlink", os.unlink, "d/x")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def with_mode(mode: int) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            prepare(scene)
            os.chmod("d/x", mode)

        return run

    def ended(scene: Scene) -> None:
        scene.do("exec", run, "d/x")

    for user in (ROOT, OWNER):
        yield Case(f"exec/written/{user.name}", prepare, while_written, user)
        yield Case(f"exec/running/{user.name}", prepare, while_running, user)
    for mode, user in product((0o000, 0o100, 0o010, 0o001, 0o644, 0o755, 0o4755), USERS):
        yield Case(f"exec/mode/{mode:o}/{user.name}", with_mode(mode), ended, user)


def listing() -> Iterator[Case]:
    """Directory positions under change: what was there all the time is seen exactly once."""

    def prepare(scene: Scene) -> None:
        scene.directories()
        os.mkdir("d/big")
        for number in range(400):
            os.mknod(f"d/big/{number:03}")

    def changed(change: Callable[[int], Any]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            with calls.listing(b"d/big") as names:
                first = [names.next() for _ in range(150)]
                position = names.tell()
                for number in range(0, 400, 5):
                    change(number)
                rest = list(names.rest())
                stays = {b"%03d" % number for number in range(400) if number % 5}
                scene.say("all once", sorted(name for name in first + rest if name in stays) == sorted(stays))
                names.seek(position)
                again = list(names.rest())
                scene.say(
                    "the same from a position", {n for n in again if n in stays} == {n for n in rest if n in stays}
                )
                names.rewind()
                scene.say("from the start", sorted(name for name in names.rest() if name not in (b".", b"..")))

        return run

    changes: dict[str, Callable[[int], Any]] = {
        "nothing": lambda number: None, "unlink": lambda number: os.unlink(f"d/big/{number:03}"),
        "create": lambda number: os.mknod(f"d/big/new{number}"),
        "rename": lambda number: os.rename(f"d/big/{number:03}", f"d/big/moved{number}"),
        "away": lambda number: os.rename(f"d/big/{number:03}", f"e/{number}"),
    }  # fmt: skip
    for name, change in changes.items():
        yield Case(f"listing/{name}", prepare, changed(change))

    def removed(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDONLY)
        scene.do("rmdir", os.rmdir, "d/x")
        scene.do("list", os.listdir, fd)
        scene.do("links", lambda: os.fstat(fd).st_nlink)
        scene.do("create", lambda: os.open("new", os.O_CREAT, dir_fd=fd))
        scene.do("mkdir", lambda: os.mkdir("new", dir_fd=fd))
        scene.do("up", lambda: os.stat("..", dir_fd=fd).st_nlink)

    yield Case("listing/removed", _prepare("dir"), removed)


def facts() -> Iterator[Case]:
    """statfs, statx, readlink, and what open descriptors of unlinked files still do."""

    def filesystem(scene: Scene) -> None:
        scene.say("longest name", os.statvfs("d/x").f_namemax)
        scene.say("flags", os.statvfs("d/x").f_flag & ~0x1000)
        scene.say("fragment is block", os.statvfs("d/x").f_frsize == os.statvfs("d/x").f_bsize)

    def extended(scene: Scene) -> None:
        seen = calls.statx(b"d/x")
        scene.say("mask", seen.mask & 0xFFF)
        scene.say("attributes", seen.attributes)
        scene.say("block size", seen.block_size)
        born = seen.btime or 0
        scene.do("chmod", os.chmod, "d/x", 0o600)
        scene.do("utime", os.utime, "d/x", (5, 5))
        scene.say("birth stays", calls.statx(b"d/x").btime == born)
        scene.say("in order", born <= seen.ctime)

    def unlinked(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDWR)
        scene.do("unlink", os.unlink, "d/x")
        scene.do("write", os.write, fd, b"still")
        scene.do("read", os.pread, fd, 20, 0)
        scene.do("stat", lambda: (os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.fstat(fd).st_uid))
        scene.do("chmod", os.fchmod, fd, 0o600)
        scene.do("setxattr", os.setxattr, fd, "user.a", b"1")
        scene.do("getxattr", os.getxattr, fd, "user.a")
        scene.do("cut", os.ftruncate, fd, 3)
        scene.do("sync", os.fsync, fd)

    def links(scene: Scene) -> None:
        scene.do("readlink", os.readlink, "d/x")
        scene.do("syncfs", calls.syncfs, scene.root_open("d", os.O_RDONLY))

    for kind in KINDS[:-1]:
        yield Case(f"statx/{kind}", _prepare(kind), extended if kind not in ("loop", "dangling") else links)
        yield Case(f"readlink/{kind}", _prepare(kind), links)
    yield Case("statfs", _prepare(), filesystem)
    yield Case("unlinked", _prepare(), unlinked)

    def direct(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, 8192)
        for offset, length in ((0, 4096), (4096, 4096), (0, 8192), (8192, 4096)):
            view = memoryview(buffer)[:length]
            scene.do(f"read {offset} {length}", lambda v=view, o=offset: os.preadv(fd, [v], o))
        buffer[:] = (CONTENT * 2)[:8192]
        scene.do("write", os.pwritev, fd, [buffer], 4096)
        scene.do("write, short", lambda: os.pwritev(fd, [memoryview(buffer)[:100]], 0))
        scene.do("read, odd place", lambda: os.preadv(fd, [memoryview(buffer)[:4096]], 100))

    yield Case("direct", _prepare(), direct)


def controlling() -> Iterator[Case]:
    """The ioctls for the flags of an inode and for its extents."""

    def act(scene: Scene) -> None:
        fd = scene.root_open("d/x", os.O_RDONLY)
        flags = scene.do("flags", calls.get_flags, fd)
        scene.do("set flags", calls.set_flags, fd, (flags or 0) | calls.NO_DUMP)
        scene.do("flags", calls.get_flags, fd)
        scene.do("sync", os.fsync, fd)
        scene.do("extents", calls.extents, fd)

    for kind, user in product(("file", "empty", "sparse", "dir", "fifo"), (ROOT, OWNER, OTHER)):
        yield Case(f"ioctl/{kind}/{user.name}", _prepare(kind), act, user)


def all_cases() -> Iterator[Case]:
    """Everything here."""
    for cases in (allocating, seeking, copying, mapping, handles, watching, executing, listing, facts, controlling):
        yield from cases()
