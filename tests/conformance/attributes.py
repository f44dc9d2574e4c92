"""Cases about attributes: modes, owners, sizes, times, access, extended attributes and access control lists."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from tests.conformance import calls
from tests.conformance.case import Case
from tests.conformance.scene import KINDS, MEMBER, OTHER, OWNER, ROOT, USERS, Scene
from tests.support import acl

MODES = (0o000, 0o400, 0o200, 0o040, 0o020, 0o004, 0o002, 0o644, 0o755, 0o777)
SET_IDS = (0o755, 0o4755, 0o2755, 0o2745, 0o6777, 0o6666, 0o6711)


def _file(kind: str, mode: int, *, capable: bool = False) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        scene.directories()
        scene.make("d/x", kind, mode)
        if capable:
            os.setxattr("d/x", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    return prepare


def _step(label: str, call: Callable[..., Any], *arguments: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.do(label, call, *arguments)


def modes() -> Iterator[Case]:
    """chmod: each kind, each user, each mode; groups that are not the caller's lose the set-group-id bit."""
    for kind, mode, user in product(KINDS, (0o000, 0o644, 0o1777, 0o2755, 0o4755, 0o6777), USERS):
        yield Case(
            f"chmod/{kind}/{mode:o}/{user.name}", _file(kind, 0o644), _step("chmod", os.chmod, "d/x", mode), user
        )
    for kind, user in product(KINDS, (ROOT, OWNER)):
        nofollow = _step("chmod", calls.fchmodat, b"d/x", 0o600, calls.SYMLINK_NOFOLLOW)
        yield Case(f"lchmod/{kind}/{user.name}", _file(kind, 0o644), nofollow, user)

    def of_another_group(scene: Scene) -> None:
        _file("file", 0o644)(scene)
        os.chown("d/x", OWNER.uid, 4444)

    for mode in SET_IDS:
        yield Case(f"chmod-foreign-group/{mode:o}", of_another_group, _step("chmod", os.chmod, "d/x", mode), OWNER)


OWNERS = ((-1, -1), (1001, -1), (-1, 2001), (0, 0), (1002, -1), (-1, 3003), (-1, 9), (1001, 2001), (7, 8))


def owners() -> Iterator[Case]:
    """chown: each kind, mode, pair of ids and user."""
    for kind, user, (uid, gid) in product(KINDS, USERS, OWNERS):
        step = _step("chown", os.lchown, "d/x", uid, gid)
        yield Case(f"lchown/{kind}/{uid}:{gid}/{user.name}", _file(kind, 0o644), step, user)
    for kind, mode, user, (uid, gid) in product(("file", "dir"), SET_IDS, USERS, OWNERS):
        step = _step("chown", os.chown, "d/x", uid, gid)
        yield Case(f"chown-setid/{kind}/{mode:o}/{uid}:{gid}/{user.name}", _file(kind, mode), step, user)
    for user, (uid, gid) in product(USERS, OWNERS):
        step = _step("chown", os.chown, "d/x", uid, gid)
        yield Case(f"chown-capable/{uid}:{gid}/{user.name}", _file("file", 0o755, capable=True), step, user)


SIZES = (0, 1, 4096, 5020, 5021, 100_000, 1 << 40, 1 << 44, 1 << 62, -1)


def sizes() -> Iterator[Case]:
    """truncate and ftruncate: kinds, sizes, modes, users."""

    def by_descriptor(flags: int, size: int) -> Callable[[Scene], None]:
        def act(scene: Scene) -> None:
            fd = scene.root_open("d/x", flags)
            scene.do("ftruncate", os.ftruncate, fd, size)

        return act

    for kind, size, user in product(KINDS, SIZES, (ROOT, OWNER)):
        yield Case(
            f"truncate/{kind}/{size}/{user.name}", _file(kind, 0o644), _step("cut", os.truncate, "d/x", size), user
        )
    for mode, user, size in product((*MODES, *SET_IDS[1:]), USERS, (0, 5020, 6000)):
        yield Case(f"truncate-mode/{mode:o}/{size}/{user.name}", _file("file", mode),
                   _step("cut", os.truncate, "d/x", size), user)  # fmt: skip
    for kind, size, flags in product(("file", "sparse"), SIZES, (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND)):
        yield Case(f"ftruncate/{kind}/{size}/{flags}", _file(kind, 0o644), by_descriptor(flags, size))


STAMPS: dict[str, tuple[calls.Stamp, calls.Stamp] | None] = {
    "null": None, "now": ((0, calls.NOW), (0, calls.NOW)), "omit": ((0, calls.OMIT), (0, calls.OMIT)),
    "now-omit": ((0, calls.NOW), (0, calls.OMIT)), "omit-now": ((0, calls.OMIT), (0, calls.NOW)),
    "set": ((1000, 5), (2000, 999_999_999)), "set-omit": ((1000, 5), (0, calls.OMIT)),
    "omit-set": ((0, calls.OMIT), (2000, 7)), "now-set": ((0, calls.NOW), (2000, 7)),
    "bad": ((1, 1_000_000_000), (1, 1)), "negative": ((1, 1), (1, -1)), "before-1970": ((-5, 5), (-1, 999_999_999)),
    "odd-omit": ((77, calls.OMIT), (88, calls.OMIT)),
}  # fmt: skip


def times() -> Iterator[Case]:
    """utimensat: each rule, kind, mode and user."""
    for kind, (name, stamps) in product(KINDS, STAMPS.items()):
        for flags in (0, calls.SYMLINK_NOFOLLOW):
            step = _step("utimens", calls.utimens, b"d/x", stamps, flags)
            yield Case(f"utimens/{kind}/{name}/{flags}", _file(kind, 0o644), step)
    for mode, (name, stamps), user in product((0o000, 0o444, 0o664, 0o666), STAMPS.items(), USERS):
        step = _step("utimens", calls.utimens, b"d/x", stamps, 0)
        yield Case(f"utimens-by/{mode:o}/{name}/{user.name}", _file("file", mode), step, user)


FAR = {"1677": -9_300_000_000, "1901": -2_200_000_000, "2262": 9_300_000_000, "2446": 15_100_000_000}
"""Seconds just beyond what 64 bits of nanoseconds hold (1677, 2262), and what ext4 does (1901, 2446)."""


def far_times() -> Iterator[Case]:
    """utimensat with times that one of the filesystems cannot store."""
    for kind, (year, seconds) in product(("file", "dir", "tolink"), FAR.items()):
        step = _step("utimens", calls.utimens, b"d/x", ((seconds, 5), (seconds, 7)), calls.SYMLINK_NOFOLLOW)
        yield Case(f"utimens-far/{kind}/{year}", _file(kind, 0o644), step)


def access() -> Iterator[Case]:
    """faccessat2: each mode, kind, wish and user; with effective ids and without."""

    def act(scene: Scene) -> None:
        for wish, flags in product(range(8), (0, calls.EACCESS, calls.SYMLINK_NOFOLLOW)):
            scene.do(f"access {wish} {flags}", calls.faccess, b"d/x", wish, flags)
        scene.do("access 8", calls.faccess, b"d/x", 8, 0)

    for kind, mode, user in product(("file", "dir", "fifo", "tolink", "dangling"), (*MODES, 0o111, 0o7000), USERS):
        yield Case(f"access/{kind}/{mode:o}/{user.name}", _file(kind, mode), act, user)


XATTRS = (
    "user.a", "trusted.a", "security.a", "security.capability", "system.x", "system.posix_acl_access",
    "system.posix_acl_default", "user.", "trusted.", "other.a", "plain", "", "user." + "n" * 250, "user." + "n" * 251,
)  # fmt: skip


def xattrs() -> Iterator[Case]:
    """Each call, namespace, kind of file and user; flags and sizes."""

    def act(name: str) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            nofollow = {"follow_symlinks": False}
            scene.do("get", lambda: os.getxattr("d/x", name, **nofollow))
            scene.do("set", lambda: os.setxattr("d/x", name, b"one", **nofollow))
            scene.do("get", lambda: os.getxattr("d/x", name, **nofollow))
            scene.do("list", lambda: sorted(os.listxattr("d/x", **nofollow)))
            scene.do("create", lambda: os.setxattr("d/x", name, b"two", os.XATTR_CREATE, **nofollow))
            scene.do("replace", lambda: os.setxattr("d/x", name, b"three", os.XATTR_REPLACE, **nofollow))
            scene.do("odd flag", lambda: os.setxattr("d/x", name, b"four", 4, **nofollow))
            scene.do("remove", lambda: os.removexattr("d/x", name, **nofollow))
            scene.do("remove", lambda: os.removexattr("d/x", name, **nofollow))
            scene.do("replace", lambda: os.setxattr("d/x", name, b"five", os.XATTR_REPLACE, **nofollow))

        return run

    for kind, name, user in product(KINDS, XATTRS, (ROOT, OWNER, MEMBER)):
        yield Case(f"xattr/{kind}/{name[:30]}{len(name)}/{user.name}", _file(kind, 0o664), act(name), user)
    for mode, user, name in product((0o000, 0o600, 0o660, 0o666, 0o444), USERS, ("user.a", "security.a", "trusted.a")):
        yield Case(f"xattr-mode/{mode:o}/{name}/{user.name}", _file("file", mode), act(name), user)

    def trusted(kind: str) -> Callable[[Scene], None]:
        def prepare(scene: Scene) -> None:
            _file(kind, 0o666)(scene)
            for name in ("trusted.t", "security.s", "trusted.u"):
                os.setxattr("d/x", name, b"root's", follow_symlinks=False)

        return prepare

    def told(scene: Scene) -> None:
        scene.do("size", calls.listxattr_size, b"d/x")
        scene.do("list", lambda: sorted(os.listxattr("d/x", follow_symlinks=False)))
        scene.do("get", lambda: os.getxattr("d/x", "trusted.t", follow_symlinks=False))

    for kind, user in product(KINDS, USERS):
        if kind != "missing":
            yield Case(f"xattr-trusted/{kind}/{user.name}", trusted(kind), told, user)

    def sticky(scene: Scene) -> None:
        _file("dir", 0o1777)(scene)
        os.setxattr("d/x", "user.there", b"1")

    for user in USERS:
        yield Case(f"xattr-sticky/{user.name}", sticky, act("user.a"), user)
    for size in (0, 1, 100, 1000, 3000, 65_536, 65_537):
        value = bytes(size)
        yield Case(f"xattr-size/{size}", _file("file", 0o644), _step("set", os.setxattr, "d/x", "user.a", value))


def _lists() -> dict[str, bytes]:
    entry = acl.NOBODY_IN_PARTICULAR
    return {
        "minimal": acl.pack(acl.simple(7, 5, 1)),
        "named": acl.pack(acl.simple(7, 5, 0, (OTHER.uid, 6), 7)),
        "masked": acl.pack(acl.simple(6, 7, 4, (OTHER.uid, 7), 4)),
        "none": acl.pack(acl.simple(0, 0, 0, (OTHER.uid, 7), 0)),
        "group": acl.pack([(1, 7, entry), (4, 0, entry), (8, 6, OTHER.groups[0]), (16, 7, entry), (32, 0, entry)]),
        "no-mask": acl.pack(acl.simple(7, 5, 0, (OTHER.uid, 6))),
        "empty": acl.pack([]), "nothing": b"", "short": b"\2\0\0\0\1", "version": b"\1\0\0\0",
        "twice": acl.pack([(1, 7, entry), *acl.simple(7, 5, 1)]),
        "unordered": acl.pack(acl.simple(7, 5, 1)[::-1]), "perm": acl.pack(acl.simple(15, 5, 1)),
        "two-users": acl.pack([(1, 7, entry), (2, 6, 9), (2, 6, 8), (4, 5, entry), (16, 7, entry), (32, 0, entry)]),
    }  # fmt: skip


def lists() -> Iterator[Case]:
    """Access control lists: set by each user on each kind; what they allow; what is made below default ones."""
    lists = _lists()
    kinds = ("file", "dir", "fifo", "tolink", "dangling")
    for (name, value), kind, which, user in product(lists.items(), kinds, ("access", "default"), (ROOT, OWNER, MEMBER)):
        step = _step("set", os.setxattr, "d/x", f"system.posix_acl_{which}", value)
        yield Case(f"acl/{which}/{kind}/{name}/{user.name}", _file(kind, 0o2754), step, user)

    def listed(which: str, value: bytes, kind: str) -> Callable[[Scene], None]:
        def prepare(scene: Scene) -> None:
            _file(kind, 0o640)(scene)
            os.setxattr("d/x" if which == "access" else "d", f"system.posix_acl_{which}", value)

        return prepare

    def allowed(scene: Scene) -> None:
        for wish in (1, 2, 4, 7):
            scene.do(f"access {wish}", calls.faccess, b"d/x", wish, calls.EACCESS)
        scene.do("chmod", os.chmod, "d/x", 0o2751)
        scene.do("remove", os.removexattr, "d/x", "system.posix_acl_access")

    def made(scene: Scene) -> None:
        scene.do("creat", lambda: os.close(os.open("d/new", os.O_CREAT | os.O_WRONLY, 0o666)))
        scene.do("mkdir", os.mkdir, "d/sub", 0o777)
        scene.do("mkdir below", os.mkdir, "d/sub/sub", 0o700)
        scene.do("fifo", os.mknod, "d/fifo", stat.S_IFIFO | 0o622)
        scene.do("symlink", os.symlink, "to", "d/sym")
        scene.do("rename away", os.rename, "d/sub", "e/sub")

    def masked(umask: int, act: Callable[[Scene], None]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            old = os.umask(umask)
            try:
                act(scene)
            finally:
                os.umask(old)

        return run

    for (name, value), user in product(list(lists.items())[:5], USERS):
        for kind in ("file", "dir"):
            yield Case(f"acl-allows/{kind}/{name}/{user.name}", listed("access", value, kind), allowed, user)
        prepare, tmpfile = listed("default", value, "missing"), _step("tmpfile", _linked_tmpfile)
        for umask in (0o000, 0o027):
            yield Case(f"acl-inherited/{umask:o}/{name}/{user.name}", prepare, masked(umask, made), user)
            yield Case(f"acl-inherited-tmpfile/{umask:o}/{name}/{user.name}", prepare, masked(umask, tmpfile), user)


def _linked_tmpfile() -> None:
    fd = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o666)
    try:
        os.link(f"/proc/self/fd/{fd}", "d/was-tmp", follow_symlinks=True)
    finally:
        os.close(fd)


def clearing() -> Iterator[Case]:
    """What changes data clears set-id bits and capabilities, for all but root."""

    def write(fd: int, other: int) -> None:
        os.write(fd, b"new")

    def copy(fd: int, other: int) -> int:
        return os.copy_file_range(other, fd, 100)

    def shared(fd: int, other: int) -> int:
        if other < 0:
            raise OSError(errno.EBADF, "")
        return os.sendfile(fd, other, 0, 50)

    changes: dict[str, Callable[[int, int], Any]] = {
        "write": write, "nothing": lambda fd, _: os.write(fd, b""), "pwritev": lambda fd, _: os.pwritev(fd, [b"a"], 9),
        "cut": lambda fd, _: os.ftruncate(fd, 5), "same-size": lambda fd, _: os.ftruncate(fd, 5020), "copy": copy,
        "allocate": lambda fd, _: calls.fallocate(fd, 0, 0, 9000), "sendfile": shared,
        "punch": lambda fd, _: calls.fallocate(fd, calls.PUNCH_HOLE | calls.KEEP_SIZE, 0, 4096),
        "chmod": lambda fd, _: os.fchmod(fd, 0o6755), "sync": lambda fd, _: os.fsync(fd),
    }  # fmt: skip

    def act(change: Callable[[int, int], Any]) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            fd, other = scene.root_open("d/x", os.O_RDWR), scene.root_open("e/from", os.O_RDONLY)
            scene.do("change", change, fd, other)

        return run

    def prepare(mode: int, capable: bool) -> Callable[[Scene], None]:
        def run(scene: Scene) -> None:
            _file("file", mode, capable=capable)(scene)
            scene.make("e/from", "file")

        return run

    for (name, change), mode, capable, user in product(changes.items(), SET_IDS, (False, True), USERS):
        yield Case(f"clear/{name}/{mode:o}/{capable}/{user.name}", prepare(mode, capable), act(change), user)
    for mode, user in product(SET_IDS, USERS):
        opened = _step("open", lambda: os.close(os.open("d/x", os.O_WRONLY | os.O_TRUNC)))
        yield Case(f"clear/o_trunc/{mode:o}/{user.name}", prepare(mode | 0o222, True), opened, user)


def all_cases() -> Iterator[Case]:
    """Everything here."""
    for cases in (modes, owners, sizes, times, far_times, access, xattrs, lists, clearing):
        yield from cases()
