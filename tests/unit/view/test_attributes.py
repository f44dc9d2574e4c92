"""Attributes, extended attributes and ACLs; what clears set-id bits and file capabilities."""

import errno
import stat
import struct

import pytest

from cowfs.view import acl
from cowfs.view.inode import NOW, Caller, SetAttr
from cowfs.view.view import XATTR_CREATE, XATTR_REPLACE
from tests.support.lab import ME
from tests.unit.view.conftest import Bench
from tests.unit.view.test_names import refused, times

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF
CAPABILITY = b"security.capability"
UNPRIVILEGED = Caller(1000, 1000, 1, 0)


def entries(*rows: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel passes it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


NAMED = entries((USER_OBJ, 7, NO_ID), (USER, 6, 1000), (GROUP_OBJ, 5, NO_ID), (MASK, 7, NO_ID), (OTHER, 4, NO_ID))
MINIMAL = entries((USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 0, NO_ID))


def made(bench: Bench, mode: int = 0o644, data: bytes = b"data") -> int:
    """A file with content, where this run wants it."""
    ino = bench.files.write("file", data)
    bench.files.set("file", mode=mode)
    bench.put()
    return ino


def test_each_attribute_alone(bench: Bench) -> None:
    ino = made(bench)
    view = bench.view
    for change, field, value in (
        (SetAttr(mode=0o1751), "mode", stat.S_IFREG | 0o1751),
        (SetAttr(uid=7), "uid", 7),
        (SetAttr(gid=8), "gid", 8),
        (SetAttr(atime=-5), "atime", -5),
        (SetAttr(mtime=10**18 + 3), "mtime", 10**18 + 3),
        (SetAttr(size=2), "size", 2),
    ):
        before = view.inode(ino)
        old = {
            name: getattr(before, name) for name in ("mode", "uid", "gid", "atime", "mtime", "size", "ctime", "btime")
        }
        view.setattr(ino, change, ME)
        inode = view.inode(ino)
        assert getattr(inode, field) == value
        assert inode.ctime > old["ctime"]
        changed = {field, "ctime"} | ({"mtime"} if field == "size" else set())
        for name, was in old.items():
            assert name in changed or getattr(inode, name) == was


def test_now_is_one_time(bench: Bench) -> None:
    ino = made(bench)
    inode = bench.view.setattr(ino, SetAttr(atime=NOW, mtime=NOW), ME)
    assert inode.atime == inode.mtime == inode.ctime == bench.clock.now
    inode = bench.view.setattr(ino, SetAttr(ctime=99), ME)
    assert inode.ctime == 99


def test_several_attributes_at_once(bench: Bench) -> None:
    ino = made(bench, 0o4755)
    inode = bench.view.setattr(ino, SetAttr(mode=0o4711, uid=3, gid=4, size=0, mtime=5), ME)
    assert (inode.mode & 0o7777, inode.uid, inode.gid, inode.size, inode.mtime) == (0o4711, 3, 4, 0, 5)


def test_sizes_that_are_refused(bench: Bench) -> None:
    ino = made(bench)
    view = bench.view
    before = bench.hash()
    folder = bench.files.mkdir("d")
    link = bench.files.symlink("l", b"t")
    refused(errno.EISDIR, view.setattr, folder, SetAttr(size=0), ME)
    refused(errno.EINVAL, view.setattr, link, SetAttr(size=0), ME)
    refused(errno.EINVAL, view.setattr, ino, SetAttr(size=-1), ME)
    refused(errno.EFBIG, view.setattr, ino, SetAttr(size=1 << 44), ME)
    refused(errno.ESTALE, view.setattr, 999, SetAttr(mode=0), ME)
    bench.files.rmdir("d")
    bench.files.unlink("l")
    assert {path: each.size for path, each in bench.hash().facts.items()} == {
        path: each.size for path, each in before.facts.items()
    }
    assert view.setattr(ino, SetAttr(size=(1 << 44) - 4096), ME).size == (1 << 44) - 4096
    view.setattr(ino, SetAttr(size=1), ME)


@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o6745, 0o2745), (0o4644, 0o644), (0o1755, 0o1755)])
def test_set_id_bits_go_when_owner_or_content_change(bench: Bench, mode: int, left: int) -> None:
    ino = made(bench, mode)
    view = bench.view

    def now() -> int:
        return view.inode(ino).mode & 0o7777

    for change in (SetAttr(uid=5), SetAttr(gid=6), SetAttr(kill_priv=True), SetAttr(size=1, kill_priv=True)):
        view.setattr(ino, SetAttr(mode=mode), ME)
        view.setattr(ino, change, ME)
        assert now() == left
    view.setattr(ino, SetAttr(mode=mode), ME)
    view.write(ino, 0, b"x", ME)
    assert now() == mode, "the kernel says when a write clears them"
    view.write(ino, 0, b"x", ME, kill_priv=True)
    assert now() == left
    view.setattr(ino, SetAttr(mode=mode), ME)
    view.fallocate(ino, 0, 0, 10, UNPRIVILEGED)
    assert now() == left
    folder = bench.files.mkdir("d")
    view.setattr(folder, SetAttr(mode=mode), ME)
    view.setattr(folder, SetAttr(uid=9, gid=9), ME)
    assert view.inode(folder).mode & 0o7777 == mode, "a directory keeps them"


def test_file_capabilities_go_when_owner_or_content_change(bench: Bench) -> None:
    ino = made(bench)
    view = bench.view
    for change in (
        lambda: view.write(ino, 0, b"x", ME),
        lambda: view.setattr(ino, SetAttr(size=1), ME),
        lambda: view.setattr(ino, SetAttr(uid=1), ME),
        lambda: view.setattr(ino, SetAttr(gid=1), ME),
        lambda: view.fallocate(ino, 0, 0, 5, ME),
    ):
        view.setxattr(ino, CAPABILITY, b"caps", 0, ME)
        view.setxattr(ino, b"user.stays", b"1", 0, ME)
        change()
        assert view.listxattr(ino) == [b"user.stays"]
    view.setxattr(ino, CAPABILITY, b"caps", 0, ME)
    view.setattr(ino, SetAttr(mode=0o755, mtime=5), ME)
    assert view.getxattr(ino, CAPABILITY) == b"caps"


def test_extended_attributes(bench: Bench) -> None:
    ino = made(bench)
    view = bench.view
    mtime = view.inode(ino).mtime
    view.setxattr(ino, b"user.a", b"1", XATTR_CREATE, ME)
    ctime = view.inode(ino).ctime
    refused(errno.EEXIST, view.setxattr, ino, b"user.a", b"2", XATTR_CREATE, ME)
    view.setxattr(ino, b"user.a", b"2", XATTR_REPLACE, ME)
    refused(errno.ENODATA, view.setxattr, ino, b"user.b", b"2", XATTR_REPLACE, ME)
    view.setxattr(ino, b"user.empty", b"", 0, ME)
    assert view.listxattr(ino) == [b"user.a", b"user.empty"]
    assert (view.getxattr(ino, b"user.a"), view.getxattr(ino, b"user.empty")) == (b"2", b"")
    assert view.inode(ino).ctime > ctime
    assert view.inode(ino).mtime == mtime
    refused(errno.ENODATA, view.getxattr, ino, b"user.b")
    refused(errno.ENODATA, view.removexattr, ino, b"user.b", ME)
    view.removexattr(ino, b"user.a", ME)
    assert view.listxattr(ino) == [b"user.empty"]
    refused(errno.ERANGE, view.setxattr, ino, b"", b"", 0, ME)
    refused(errno.ERANGE, view.setxattr, ino, b"user." + b"n" * 251, b"", 0, ME)
    refused(errno.E2BIG, view.setxattr, ino, b"user.big", bytes(65_537), 0, ME)
    refused(errno.ENODATA, view.setxattr, ino, b"user.x", b"", 3, ME)
    for name in (b"system.x", b"plain", b"other.x"):
        refused(errno.EOPNOTSUPP, view.setxattr, ino, name, b"", 0, ME)
    refused(errno.EINVAL, view.setxattr, ino, b"user.", b"", 0, ME)
    refused(errno.EINVAL, view.setxattr, ino, b"user.x", b"", 4, ME)
    view.setxattr(ino, b"user.big1", bytes(65_536), 0, ME)
    refused(errno.ENOSPC, view.setxattr, ino, b"user.big2", bytes(65_536), 0, ME)
    view.setxattr(ino, b"user.big2", bytes(65_000), 0, ME)
    for special in (bench.files.symlink("l", b"t"), bench.files.mkdir("d")):
        view.setxattr(special, b"trusted.x", b"y", 0, ME)
        assert view.getxattr(special, b"trusted.x") == b"y"


def test_an_access_acl_and_the_mode_follow_each_other(bench: Bench) -> None:
    ino = made(bench)
    view = bench.view
    view.setxattr(ino, acl.ACCESS, NAMED, 0, ME)
    assert view.inode(ino).mode & 0o7777 == 0o774, "the group bits are the mask"
    view.setattr(ino, SetAttr(mode=0o640), ME)
    assert view.getxattr(ino, acl.ACCESS) == entries(
        (USER_OBJ, 6, NO_ID), (USER, 6, 1000), (GROUP_OBJ, 5, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID)
    )
    view.setxattr(ino, acl.ACCESS, MINIMAL, 0, ME)
    assert acl.ACCESS not in view.listxattr(ino), "the mode says it all"
    assert view.inode(ino).mode & 0o777 == 0o640
    view.setxattr(ino, acl.ACCESS, NAMED, 0, ME)
    view.setxattr(ino, acl.ACCESS, b"", 0, ME)
    assert acl.ACCESS not in view.listxattr(ino)
    assert view.inode(ino).mode & 0o777 == 0o774
    view.setxattr(ino, acl.ACCESS, NAMED, 0, ME)
    view.removexattr(ino, acl.ACCESS, ME)
    assert view.inode(ino).mode & 0o777 == 0o774


@pytest.mark.parametrize(
    "bad",
    [
        b"\2\0\0", b"\1\0\0\0", NAMED[:-1], NAMED + NAMED[4:12], struct.pack("<I", 2),
        entries((USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID)),
        entries((USER_OBJ, 8, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 0, NO_ID)),
        entries((GROUP_OBJ, 5, NO_ID), (USER_OBJ, 7, NO_ID), (OTHER, 0, NO_ID)),
        entries((USER_OBJ, 7, NO_ID), (USER, 7, 1), (GROUP_OBJ, 5, NO_ID), (OTHER, 0, NO_ID)),
        entries((USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (64, 0, NO_ID)),
    ],
)  # fmt: skip
def test_malformed_acls_are_refused(bench: Bench, bad: bytes) -> None:
    ino = made(bench)
    before = bench.hash()
    refused(errno.EINVAL, bench.view.setxattr, ino, acl.ACCESS, bad, 0, ME)
    refused(errno.EINVAL, bench.view.setxattr, 1, acl.DEFAULT, bad, 0, ME)
    refused(errno.EACCES, bench.view.setxattr, ino, acl.DEFAULT, NAMED, 0, ME)
    assert bench.hash() == before


def test_new_inodes_inherit_the_default_acl(bench: Bench) -> None:
    folder = bench.files.mkdir("d")
    bench.view.setxattr(folder, acl.DEFAULT, NAMED, 0, ME)
    bench.put()
    view = bench.view
    who = Caller(1, 1, 1, 0o077)  # the umask does not count under a default ACL
    file = view.mknod(folder, b"f", 0o100664, 0, who)
    assert file.mode & 0o777 == 0o664
    assert view.getxattr(file.ino, acl.ACCESS) == entries(
        (USER_OBJ, 6, NO_ID), (USER, 6, 1000), (GROUP_OBJ, 5, NO_ID), (MASK, 6, NO_ID), (OTHER, 4, NO_ID)
    )
    assert view.listxattr(file.ino) == [acl.ACCESS]
    sub = view.mkdir(folder, b"sub", 0o700, who)
    assert sub.mode & 0o777 == 0o700
    assert view.listxattr(sub.ino) == [acl.ACCESS, acl.DEFAULT]
    assert view.getxattr(sub.ino, acl.DEFAULT) == NAMED
    link = view.symlink(folder, b"l", b"t", who)
    assert (link.mode & 0o777, view.listxattr(link.ino)) == (0o777, [])
    nameless = view.tmpfile(folder, 0o660, who)
    assert view.listxattr(nameless.ino) == [acl.ACCESS]
    view.forget(nameless.ino)
    view.setxattr(folder, acl.DEFAULT, MINIMAL, 0, ME)
    plain = view.mknod(folder, b"plain", 0o100666, 0, who)
    assert (plain.mode & 0o777, view.listxattr(plain.ino)) == (0o640, [])


def test_a_link_of_an_inode_shares_its_attributes(bench: Bench) -> None:
    ino = made(bench)
    bench.files.link("file", "twin")
    bench.view.setxattr(ino, b"user.x", b"1", 0, ME)
    twin = bench.files.inode("twin")
    assert times(twin) == times(bench.files.inode("file"))
    assert twin.xattrs == {b"user.x": b"1"}
