"""Operations on names: what they do, how they fail, which times and link counts they change."""

import errno
import stat
from collections.abc import Callable

import pytest

from cowfs.view.inode import Caller, Inode
from cowfs.view.view import LINK_MAX, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.support.lab import ME
from tests.unit.view.conftest import Bench

LONG = "n" * 256
NOBODY = Caller(65534, 65534, 1, 0o022)


def refused(code: int, call: Callable[..., object], *args: object) -> None:
    """The call fails with exactly this errno."""
    with pytest.raises(OSError) as caught:
        call(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def times(inode: Inode) -> tuple[int, int, int, int]:
    """atime, mtime, ctime, btime"""
    return inode.atime, inode.mtime, inode.ctime, inode.btime


def populate(bench: Bench) -> None:
    files = bench.files
    for path in ("dir", "dir/sub", "empty"):
        files.mkdir(path)
    for path in ("file", "dir/in", "dir/sub/deep", "other"):
        files.write(path, path.encode())
    files.symlink("link", b"file")
    bench.put()


def test_new_inodes(bench: Bench) -> None:
    populate(bench)
    files, view = bench.files, bench.view
    who = Caller(1000, 1001, 1, 0o027)
    before = bench.clock.now
    root = times(view.inode(1))
    for name, kind, rdev in ((b"r", stat.S_IFREG, 7), (b"p", stat.S_IFIFO, 7), (b"s", stat.S_IFSOCK, 7),
                             (b"c", stat.S_IFCHR, 0x105), (b"b", stat.S_IFBLK, 0x801)):  # fmt: skip
        made = view.mknod(1, name, kind | 0o4777, rdev, who)
        assert (made.mode, made.uid, made.gid, made.nlink, made.size, made.blocks) == (
            kind | 0o4750,
            1000,
            1001,
            1,
            0,
            0,
        )
        assert made.rdev == (rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
        assert len(set(times(made))) == 1
        assert made.mtime > before
        assert view.inode(1).mtime == view.inode(1).ctime == made.mtime
    assert view.inode(1).atime == root[0]
    made = view.mkdir(1, b"d", 0o1777, who)
    assert (made.mode, made.nlink, made.size) == (stat.S_IFDIR | 0o1750, 2, 4096)
    assert view.inode(1).nlink == 5
    made = view.symlink(1, b"l", b"t" * 4095, who)
    assert (made.mode, made.size, view.readlink(made.ino)) == (stat.S_IFLNK | 0o777, 4095, b"t" * 4095)
    assert files.names() == sorted(["r", "p", "s", "c", "b", "d", "l", "dir", "empty", "file", "link", "other"])


def test_set_group_id_directories_pass_their_group_on(bench: Bench) -> None:
    bench.files.mkdir("shared")
    bench.files.set("shared", gid=77, mode=0o2775)
    bench.put()
    view, shared = bench.view, bench.files.ino("shared")
    assert view.mknod(shared, b"f", 0o100644, 0, NOBODY).gid == 77
    made = view.mkdir(shared, b"d", 0o755, NOBODY)
    assert (made.gid, made.mode & 0o7777) == (77, 0o2755)
    assert view.symlink(shared, b"l", b"t", NOBODY).gid == 77
    assert view.tmpfile(shared, 0o600, NOBODY).gid == 77


def test_names_that_are_refused(bench: Bench) -> None:
    populate(bench)
    view, files = bench.view, bench.files
    makers: list[Callable[[int, bytes], object]] = [
        lambda parent, name: view.mknod(parent, name, 0o100644, 0, ME),
        lambda parent, name: view.mkdir(parent, name, 0o755, ME),
        lambda parent, name: view.symlink(parent, name, b"t", ME),
        lambda parent, name: view.link(files.ino("file"), parent, name, ME),
    ]
    for make in makers:
        for name, code in ((b"dir", errno.EEXIST), (b"file", errno.EEXIST), (b".", errno.EEXIST), (b"..", errno.EEXIST),
                           (LONG.encode(), errno.ENAMETOOLONG), (b"", errno.EINVAL), (b"a/b", errno.EINVAL),
                           (b"a\0", errno.EINVAL)):  # fmt: skip
            refused(code, make, 1, name)
        refused(errno.ENOTDIR, make, files.ino("file"), b"x")
        refused(errno.ENOTDIR, make, files.ino("link"), b"x")
        refused(errno.ESTALE, make, 999, b"x")
        make(1, b"n" * 255)
        (view.rmdir if files.inode("n" * 255).is_dir else view.unlink)(1, b"n" * 255, ME)
    for mode in (stat.S_IFDIR, stat.S_IFLNK, 0, 0o170000):
        refused(errno.EINVAL, view.mknod, 1, b"x", mode | 0o644, 0, ME)
    refused(errno.ENOENT, lambda: view.symlink(1, b"x", b"", ME))
    refused(errno.ENAMETOOLONG, lambda: view.symlink(1, b"x", b"t" * 4096, ME))
    refused(errno.EPERM, lambda: view.link(files.ino("dir"), 1, b"x", ME))
    for call in (view.unlink, view.rmdir):
        refused(errno.ENOENT, call, 1, b"nothing", ME)
        refused(errno.ENOTDIR, call, files.ino("file"), b"x", ME)
        refused(errno.ESTALE, call, 999, b"x", ME)
        refused(errno.ENAMETOOLONG, call, 1, LONG.encode(), ME)
    refused(errno.EISDIR, lambda: view.unlink(1, b"dir", ME))
    refused(errno.ENOTDIR, lambda: view.rmdir(1, b"file", ME))
    refused(errno.ENOTEMPTY, lambda: view.rmdir(1, b"dir", ME))
    refused(errno.EINVAL, lambda: view.rmdir(1, b".", ME))
    refused(errno.ENOTEMPTY, lambda: view.rmdir(1, b"..", ME))
    assert view.lookup(1, b"nothing") is None
    refused(errno.ENAMETOOLONG, lambda: view.lookup(1, LONG.encode()))
    refused(errno.ENOTDIR, lambda: view.lookup(files.ino("file"), b"x"))
    refused(errno.EINVAL, lambda: view.readlink(files.ino("file")))


def test_links_count_and_change_ctime(bench: Bench) -> None:
    populate(bench)
    files, view = bench.files, bench.view
    before = times(files.inode("file"))
    files.link("file", "dir/second")
    inode = files.inode("file")
    assert (inode.nlink, files.ino("dir/second")) == (2, inode.ino)
    assert (inode.atime, inode.mtime, inode.btime) == (before[0], before[1], before[3])
    assert inode.ctime > before[2]
    assert view.inode(files.ino("dir")).mtime == inode.ctime
    files.unlink("file")
    inode = files.inode("dir/second")
    assert (inode.nlink, inode.mtime) == (1, before[1])
    assert inode.ctime == view.inode(1).mtime
    assert files.read("dir/second") == b"file"
    files.unlink("dir/second")
    refused(errno.ESTALE, lambda: view.inode(inode.ino))


def test_a_file_has_so_many_names_at_most(bench: Bench) -> None:
    files = bench.files
    ino = files.create("file")
    bench.view.inode(ino).nlink = LINK_MAX  # making them all takes a minute
    refused(errno.EMLINK, lambda: files.link("file", "one more"))
    bench.view.inode(ino).nlink = 1


def test_directories_count_their_directories(bench: Bench) -> None:
    populate(bench)
    files = bench.files
    assert (files.inode("").nlink, files.inode("dir").nlink) == (4, 3)
    files.rename("dir/sub", "sub")
    assert (files.inode("").nlink, files.inode("dir").nlink) == (5, 2)
    assert files.view.lookup(files.ino("sub"), b"..") is files.inode("")
    files.unlink("sub/deep")
    files.rmdir("sub")
    files.rmdir("empty")
    assert files.inode("").nlink == 3


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_rename_over_nothing_and_over_its_like(bench: Bench, kind: str) -> None:
    populate(bench)
    files = bench.files
    if kind == "file":
        old, new, victim = "dir/in", "other", files.ino("other")
    else:
        old, new, victim = "dir/sub", "empty", files.ino("empty")
    ino, mtime = files.ino(old), files.inode(old).mtime
    files.rename(old, "dir/renamed")
    assert files.ino("dir/renamed") == ino
    assert not files.exists(old)
    assert files.inode("dir/renamed").mtime == mtime
    assert files.inode("dir/renamed").ctime == files.inode("dir").mtime
    files.rename("dir/renamed", new)
    assert files.ino(new) == ino
    refused(errno.ESTALE, lambda: bench.view.inode(victim))
    files.rename(new, new)  # onto itself: nothing happens
    assert files.ino(new) == ino


def test_rename_between_two_names_of_one_file_does_nothing(bench: Bench) -> None:
    populate(bench)
    files = bench.files
    files.link("file", "twin")
    before = bench.hash()
    files.rename("file", "twin")
    assert bench.hash() == before


def test_renames_that_are_refused(bench: Bench) -> None:
    populate(bench)
    files = bench.files
    before = bench.hash()
    for code, old, new, flags in (
        (errno.ENOENT, "nothing", "x", 0),
        (errno.EEXIST, "file", "other", RENAME_NOREPLACE),
        (errno.EEXIST, "file", "other", RENAME_NOREPLACE | RENAME_WHITEOUT),
        (errno.EISDIR, "file", "empty", 0),
        (errno.ENOTDIR, "empty", "file", 0),
        (errno.ENOTEMPTY, "empty", "dir", 0),
        (errno.EINVAL, "dir", "dir/sub/x", 0),
        (errno.EINVAL, "dir", "dir/x", 0),
        (errno.EINVAL, "dir", "dir/sub", RENAME_EXCHANGE),
        (errno.EINVAL, "dir/sub", "dir", RENAME_EXCHANGE),
        (errno.ENOENT, "file", "nothing", RENAME_EXCHANGE),
        (errno.EINVAL, "file", "other", 8),
        (errno.EINVAL, "file", "other", RENAME_EXCHANGE | RENAME_NOREPLACE),
        (errno.EINVAL, "file", "other", RENAME_EXCHANGE | RENAME_WHITEOUT),
        (errno.ENAMETOOLONG, "file", LONG, 0),
        (errno.ENAMETOOLONG, LONG, "x", 0),
    ):
        refused(code, files.rename, old, new, flags)
    for first, second in ((b".", b"x"), (b"..", b"x"), (b"file", b"."), (b"file", b"..")):
        refused(errno.EBUSY, bench.view.rename, 1, first, 1, second, 0, ME)
    refused(errno.ENOTDIR, lambda: bench.view.rename(1, b"file", files.ino("other"), b"x", 0, ME))
    refused(errno.ESTALE, lambda: bench.view.rename(1, b"file", 999, b"x", 0, ME))
    assert bench.hash() == before


@pytest.mark.parametrize(
    ("one", "two"),
    [("file", "dir/in"), ("dir/sub", "empty"), ("dir/sub", "file"), ("link", "dir/sub/deep"), ("file", "other")],
)
def test_exchange(bench: Bench, one: str, two: str) -> None:
    populate(bench)
    files = bench.files
    first, second = files.ino(one), files.ino(two)
    directories = {path: files.inode(path).nlink for path in ("", "dir")}
    files.rename(one, two, RENAME_EXCHANGE)
    assert (files.ino(one), files.ino(two)) == (second, first)
    now = files.inode(one).ctime
    assert files.inode(two).ctime == now
    for path in (one, two):
        assert files.inode(path.rpartition("/")[0]).mtime == now
    if one == "dir/sub" and two == "file":
        assert {path: files.inode(path).nlink for path in ("", "dir")} == {"": directories[""] + 1, "dir": 2}
    else:
        assert {path: files.inode(path).nlink for path in ("", "dir")} == directories
    files.rename(two, one, RENAME_EXCHANGE)
    assert (files.ino(one), files.ino(two)) == (first, second)


@pytest.mark.parametrize("new", ["moved", "other", "dir/moved"])
def test_whiteout(bench: Bench, new: str) -> None:
    populate(bench)
    files = bench.files
    ino = files.ino("file")
    bench.view.rename(*files.split("file"), *files.split(new), RENAME_WHITEOUT, NOBODY)
    left = files.inode("file")
    assert (left.mode, left.rdev, left.nlink, left.uid) == (stat.S_IFCHR, 0, 1, 65534)
    assert left.ino > ino
    assert files.ino(new) == ino
    files.unlink("file")


def test_a_removed_directory_that_is_open_takes_nothing_in(bench: Bench) -> None:
    populate(bench)
    files, view = bench.files, bench.view
    ino = files.ino("empty")
    view.opened(ino, False, ME)
    files.rmdir("empty")
    assert view.inode(ino).nlink == 0
    assert list(view.readdir(ino))[2:] == []
    refused(errno.ENOENT, lambda: view.mknod(ino, b"x", 0o100644, 0, ME))
    refused(errno.ENOENT, lambda: view.mkdir(ino, b"x", 0o755, ME))
    refused(errno.ENOENT, lambda: view.link(files.ino("file"), ino, b"x", ME))
    refused(errno.ENOENT, lambda: view.rename(1, b"file", ino, b"x", 0, ME))
    view.released(ino, False, ME)
    refused(errno.ESTALE, lambda: view.inode(ino))


def test_what_lost_its_name_gets_no_other(bench: Bench) -> None:
    populate(bench)
    files, view = bench.files, bench.view
    for name in ("link", "file"):
        view.opened(files.ino(name), True, ME)
    link, file = files.ino("link"), files.ino("file")
    files.unlink("link")
    files.unlink("file")
    refused(errno.ENOENT, lambda: view.link(link, 1, b"again", ME))
    refused(errno.ENOENT, lambda: view.link(file, 1, b"again", ME))
    assert view.read(file, 0, 10) == b"file"
    view.released(link, True, ME)
