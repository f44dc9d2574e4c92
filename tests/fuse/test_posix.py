"""POSIX calls through a real mount."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from cowfs.view.inode import Caller
from tests.support.mounting import as_others, by_handle

from .conftest import Mounted, client

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_files_directories_and_links(mnt: Path) -> None:
    (mnt / "d").mkdir(mode=0o750)
    (mnt / "d" / "f").write_bytes(b"content")
    os.link(mnt / "d" / "f", mnt / "hard")
    os.symlink("d/f", mnt / "soft")
    assert (mnt / "soft").read_bytes() == b"content"
    assert os.readlink(mnt / "soft") == "d/f"
    assert (mnt / "hard").stat().st_ino == (mnt / "d" / "f").stat().st_ino
    assert (mnt / "hard").stat().st_nlink == 2
    assert stat.S_IMODE((mnt / "d").stat().st_mode) == 0o750
    assert sorted(os.listdir(mnt)) == ["d", "hard", "soft"]
    with pytest.raises(OSError, match="not empty"):
        (mnt / "d").rmdir()
    (mnt / "d" / "f").unlink()
    (mnt / "d").rmdir()
    assert (mnt / "hard").stat().st_nlink == 1
    with pytest.raises(FileNotFoundError):
        (mnt / "soft").stat()


@as_others
def test_special_files(mnt: Path) -> None:
    os.mkfifo(mnt / "pipe", 0o640)
    os.mknod(mnt / "dev", stat.S_IFCHR | 0o600, os.makedev(300, 70000))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(mnt / "sock"))
    assert stat.S_ISFIFO((mnt / "pipe").stat().st_mode)
    assert (mnt / "dev").stat().st_rdev == os.makedev(300, 70000)
    assert stat.S_ISSOCK((mnt / "sock").stat().st_mode)
    with pytest.raises(PermissionError):  # nodev
        (mnt / "dev").read_bytes()


def test_umask_is_applied_once(mnt: Path) -> None:
    old = os.umask(0o027)
    try:
        (mnt / "f").touch(0o666)
        (mnt / "d").mkdir(0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((mnt / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((mnt / "d").stat().st_mode) == 0o750


@as_others
def test_chmod_chown_utimens(mnt: Path) -> None:
    path = mnt / "f"
    path.write_bytes(b"x")
    path.chmod(0o4711)
    os.utime(path, ns=(1_234_567_890_123_456_789, -5_000_000_001))
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_atime_ns, status.st_mtime_ns) == (
        0o4711, 1_234_567_890_123_456_789, -5_000_000_001,
    )  # fmt: skip
    os.chown(path, 1000, 1001)
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert status.st_mode & stat.S_ISUID == 0


def test_times_out_of_range_are_clamped(mnt: Path) -> None:
    (mnt / "f").touch()
    os.utime(mnt / "f", (10**12, -(10**12)))
    assert ((mnt / "f").stat().st_atime_ns, (mnt / "f").stat().st_mtime_ns) == ((1 << 63) - 1, -(1 << 63))


@by_handle
def test_handle_of_an_inode_that_the_kernel_dropped(mounted: Mounted) -> None:
    """What flushing relies on when the kernel has not yet taken in the answer to a CREATE."""
    view = mounted.workspace.view
    with mounted.workspace.lock:
        ino = view.mknod(1, b"f", stat.S_IFREG | 0o644, 0, Caller()).ino
        view.write(ino, 0, b"unseen", Caller())
    handle = ctypes.create_string_buffer(struct.pack("<IiIII", 12, 0x81, 0, ino, 0))
    root = os.open(mounted.path, os.O_RDONLY)
    fd = libc.open_by_handle_at(root, handle, os.O_RDONLY)
    os.close(root)
    assert fd >= 0
    assert os.read(fd, 100) == b"unseen"
    os.close(fd)


@as_others
def test_write_by_another_user_clears_set_id(mnt: Path) -> None:
    path = mnt / "f"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    os.chmod(mnt, 0o777)
    code = "import os,sys; os.chdir(sys.argv[1]); os.setuid(1000); open('f', 'a').write('y')"
    client(code, mnt)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


CHANGES = """if True:
    import ctypes, os, sys
    os.chdir(sys.argv[1])
    fd = os.open("f", os.O_RDWR)
    if sys.argv[2] != "root":
        os.setuid(1000)
    if sys.argv[3] == "fallocate":
        assert ctypes.CDLL(None).fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(8192)) == 0
    else:
        assert os.copy_file_range(os.open("from", os.O_RDONLY), fd, 100) == 100
"""


@as_others
@pytest.mark.parametrize("call", ["fallocate", "copy_file_range"])
def test_set_id_where_the_kernel_does_not_say_who_calls(mnt: Path, call: str) -> None:
    (mnt / "from").write_bytes(b"x" * 100)
    for who, mode in [("root", 0o6777), ("other", 0o777)]:
        (mnt / "f").write_bytes(b"x")
        (mnt / "f").chmod(0o6777)
        os.chmod(mnt, 0o777)
        client(CHANGES, mnt, who, call)
        assert stat.S_IMODE((mnt / "f").stat().st_mode) == mode, who


@as_others
def test_permissions_are_checked_by_the_kernel(mnt: Path) -> None:
    (mnt / "secret").write_bytes(b"x")
    (mnt / "secret").chmod(0o600)
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        os.setuid(1000)
        for call in (lambda: open("secret"), lambda: open("new", "w"), lambda: os.unlink("secret")):
            try:
                call()
            except PermissionError:
                continue
            sys.exit("allowed")
    """
    client(code, mnt)


@pytest.mark.parametrize("size", [1, 4095, 4097, 131_073, 5_000_001])
def test_large_reads_and_writes(mnt: Path, size: int) -> None:
    data = os.urandom(size)
    path = mnt / "f"
    path.write_bytes(data)
    assert path.stat().st_size == size
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, size + 10, 0) == data
        assert os.pread(fd, 100, size) == b""
    finally:
        os.close(fd)


def test_direct_io(mnt: Path) -> None:
    path = mnt / "f"
    buffer = mmap.mmap(-1, 2 * 1024 * 1024)
    buffer.write(os.urandom(len(buffer)))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        assert os.pwritev(fd, [buffer], 0) == len(buffer)
    finally:
        os.close(fd)
    assert path.read_bytes() == buffer[:]


def test_append_and_truncate_on_open(mnt: Path) -> None:
    path = mnt / "f"
    path.write_bytes(b"long content")
    first = os.open(path, os.O_WRONLY | os.O_APPEND)
    second = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(first, b"1")
    os.write(second, b"2")
    assert path.read_bytes() == b"long content12"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    os.write(first, b"3")
    assert path.read_bytes() == b"3"
    os.close(first)
    os.close(second)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    assert path.read_bytes() == b""


def test_exclusive_create(mnt: Path) -> None:
    os.close(os.open(mnt / "f", os.O_CREAT | os.O_EXCL))
    with pytest.raises(FileExistsError):
        os.open(mnt / "f", os.O_CREAT | os.O_EXCL)


def test_create_opens_what_the_kernel_did_not_know(mounted: Mounted) -> None:
    """As after a restore: the kernel remembers that there is no such name, but there is one."""
    path = mounted.path / "f"
    assert not path.exists()
    client("import os, sys; open(sys.argv[1], 'w').write('old')", path)
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    assert os.read(fd, 10) == b"old"
    os.close(fd)


def test_shared_and_private_mappings(mnt: Path) -> None:
    """In a process of its own: a page fault holds the interpreter's lock, which the server needs."""
    path = mnt / "f"
    path.write_bytes(b"a" * 10_000)
    code = """if True:
        import mmap, sys
        with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            shared[5000] = ord("b")
            with open(sys.argv[1], "rb") as other:
                assert other.read()[5000:5002] == b"ba"
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
                private[0] = ord("p")
                assert shared[0] == ord("a")
    """
    client(code, path)
    assert path.read_bytes()[5000:5002] == b"ba"


def test_ten_thousand_entries_while_deleting(mnt: Path) -> None:
    names = {f"file-{i}" for i in range(10_000)}
    directory = os.open(mnt, os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    seen: list[str] = []
    with os.scandir(mnt) as entries:
        for entry in entries:
            seen.append(entry.name)
            assert entry.is_file()
            if len(seen) % 3 == 0:
                os.unlink(entry.name, dir_fd=directory)
    os.close(directory)
    assert len(seen) == len(names)
    assert set(seen) == names
    left = os.listdir(mnt)
    assert len(left) == len(set(left)) == 10_000 - 3_333


def test_rename_flags(mnt: Path) -> None:
    (mnt / "a").write_text("a")
    (mnt / "b").write_text("b")
    (mnt / "dir").mkdir()
    with pytest.raises(FileExistsError):
        renameat2(mnt / "a", mnt / "b", NOREPLACE)
    renameat2(mnt / "a", mnt / "b", EXCHANGE)
    assert ((mnt / "a").read_text(), (mnt / "b").read_text()) == ("b", "a")
    renameat2(mnt / "a", mnt / "dir", EXCHANGE)
    assert (mnt / "a").is_dir()
    renameat2(mnt / "dir", mnt / "a" / "moved", NOREPLACE)
    assert (mnt / "a" / "moved").read_text() == "b"
    renameat2(mnt / "b", mnt / "c", WHITEOUT)
    assert stat.S_ISCHR((mnt / "b").stat().st_mode)
    assert (mnt / "b").stat().st_rdev == 0
    with pytest.raises(OSError, match="Invalid"):
        os.rename(mnt / "a", mnt / "a" / "below")


def test_fallocate_and_seek(mnt: Path) -> None:
    fd = os.open(mnt / "f", os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, 1 << 30)
        os.pwrite(fd, b"x" * 8192, 1 << 20)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
        assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 8192
        assert os.fstat(fd).st_blocks == 16
        punch = 0x01 | 0x02
        assert libc.fallocate(fd, punch, ctypes.c_long(1 << 20), ctypes.c_long(4096)) == 0
        assert os.pread(fd, 8192, 1 << 20) == bytes(4096) + b"x" * 4096
        assert os.fstat(fd).st_blocks == 8
        os.posix_fallocate(fd, 1 << 30, 4096)
        assert os.fstat(fd).st_size == (1 << 30) + 4096
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, 1 << 31, os.SEEK_DATA)
    finally:
        os.close(fd)


def test_copy_file_range(mnt: Path) -> None:
    data = os.urandom(3_000_000)
    (mnt / "a").write_bytes(data)
    with (mnt / "a").open("rb") as source, (mnt / "b").open("wb") as target:
        copied = 0
        while n := os.copy_file_range(source.fileno(), target.fileno(), len(data)):
            copied += n
    assert copied == len(data)
    assert (mnt / "b").read_bytes() == data


def test_unlinked_while_open(mnt: Path) -> None:
    with (mnt / "f").open("w+b") as file:
        file.write(b"alive")
        file.flush()
        (mnt / "f").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" still")
        file.flush()
        assert os.pread(file.fileno(), 100, 0) == b"alive still"
        (mnt / "f").write_bytes(b"another")
        assert os.pread(file.fileno(), 100, 0) == b"alive still"


def test_replaced_while_open(mnt: Path) -> None:
    (mnt / "old").write_bytes(b"old")
    with (mnt / "old").open("rb") as file:
        (mnt / "new").write_bytes(b"new")
        os.rename(mnt / "new", mnt / "old")
        assert file.read() == b"old"
    assert (mnt / "old").read_bytes() == b"new"


def test_tmpfile_can_be_linked(mnt: Path) -> None:
    fd = os.open(mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"data")
    linked = libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(mnt / "named"), 0x400)
    os.close(fd)
    assert linked == 0
    assert (mnt / "named").read_bytes() == b"data"
    assert (mnt / "named").stat().st_nlink == 1


def test_locks_stay_in_the_kernel(mnt: Path) -> None:
    path = mnt / "f"
    path.touch()
    with path.open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        fcntl.lockf(mine, fcntl.LOCK_EX)
        code = """if True:
            import fcntl, sys
            with open(sys.argv[1], "r+") as file:
                for lock in (fcntl.flock, fcntl.lockf):
                    try:
                        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    sys.exit("not locked")
        """
        client(code, path)


def test_fsync_and_unknown_ioctl(mnt: Path) -> None:
    with (mnt / "f").open("wb") as file:
        file.write(b"x")
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
        with pytest.raises(OSError) as caught:
            fcntl.ioctl(file.fileno(), 0xF0F0)
        assert caught.value.errno == errno.ENOTTY
    directory = os.open(mnt, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_birth_time_and_statvfs(mnt: Path) -> None:
    (mnt / "f").touch()
    buffer = (ctypes.c_ubyte * 256)()
    assert libc.statx(AT_FDCWD, os.fsencode(mnt / "f"), 0, 0xFFF, buffer) == 0
    mask = int.from_bytes(bytes(buffer[0:4]), "little")
    assert mask & 0x800
    btime = int.from_bytes(bytes(buffer[0x50:0x58]), "little")
    assert abs(btime - (mnt / "f").stat().st_ctime) < 5
    sizes = os.statvfs(mnt)
    assert sizes.f_bsize == 4096
    assert sizes.f_namemax == 255
    assert sizes.f_bfree <= sizes.f_blocks


def test_names(mnt: Path) -> None:
    raw = os.fsencode(mnt)
    for name in (b"\xff\xfe", "ü".encode(), b" ", b"a\nb", b"x" * 255):
        with open(raw + b"/" + name, "wb") as file:
            file.write(name)
        with open(raw + b"/" + name, "rb") as file:
            assert file.read() == name
    with pytest.raises(OSError, match="too long"):
        os.stat(raw + b"/" + b"x" * 256)
    assert len(os.listdir(raw)) == 5


def test_readdir_shows_inode_numbers_and_dots(mnt: Path) -> None:
    (mnt / "d").mkdir()
    with os.scandir(mnt) as entries:
        (entry,) = entries
        assert entry.inode() == entry.stat().st_ino
    code = """if True:
        import ctypes, os, sys
        fd = os.open(sys.argv[1], os.O_RDONLY)
        buffer = ctypes.create_string_buffer(4096)
        n = ctypes.CDLL(None).syscall(217, fd, buffer, 4096)
        names = {}
        at = 0
        while at < n:
            length = int.from_bytes(buffer.raw[at + 16:at + 18], "little")
            names[buffer.raw[at + 19:at + length].split(b"\\0")[0]] = int.from_bytes(buffer.raw[at:at + 8], "little")
            at += length
        print(sorted(names.items()))
    """
    listed = client(code, mnt / "d").stdout
    assert eval(listed) == [(b".", (mnt / "d").stat().st_ino), (b"..", mnt.stat().st_ino)]
