"""Facts about the kernel that cowfs relies on: where one of these fails, a design decision has lost its ground."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.view.inode import Caller, SetAttr
from cowfs_daemon.fuse import mount as mounts
from cowfs_daemon.fuse import negotiate as n
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.dispatch import Handler, Reply
from tests.support.mounting import as_others, by_handle, mounts_inside

from .agent import Agent
from .conftest import Mounted, client, wait_until, wrap_handler

libc = ctypes.CDLL(None, use_errno=True)
ABSENT_S = 0.2
"""How long something that must not happen is waited for."""


@pytest.fixture
def agent(mounted: Mounted) -> Iterator[Agent]:
    """A program whose working directory is the mount's parent."""
    with Agent() as made:
        made(f"os.chdir({str(mounted.path.parent)!r})")
        yield made


def content(mounted: Mounted, ino: int) -> bytes:
    """What the engine holds."""
    with mounted.workspace.lock:
        view = mounted.workspace.view
        return view.read(ino, 0, view.inode(ino).size)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, threading.Event]:
    """Run ``work`` in a thread; the event says that it has returned."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


# Flushing


def test_syncfs_is_no_barrier(mounted: Mounted, agent: Agent) -> None:
    """It returns while the writes that it should wait for cannot even be answered."""
    (mounted.path / "f").write_bytes(bytes(8192))
    ino = (mounted.path / "f").stat().st_ino
    agent("import ctypes; libc = ctypes.CDLL(None); f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0] = 7")
    with mounted.workspace.lock:
        assert agent("libc.syncfs(f.fileno())") == 0
        assert content(mounted, ino)[0] == 0
    mounted.checkpoint()
    assert content(mounted, ino)[0] == 7


def test_release_comes_after_the_last_mapping(mounted: Mounted, agent: Agent) -> None:
    """So a count of writable opens covers mappings; munmap writes what it dirtied before."""
    (mounted.path / "f").write_bytes(bytes(8192))
    ino = (mounted.path / "f").stat().st_ino
    wait_until(lambda: mounted.transport.statistics().writers == 0)
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[4096] = 9")
    assert mounted.transport.statistics().writers == 1
    agent("m.close()")
    wait_until(lambda: mounted.transport.statistics().writers == 0)
    assert content(mounted, ino)[4096] == 9


@mounts_inside
def test_a_handle_opens_renamed_unlinked_and_covered_files(mounted: Mounted, agent: Agent) -> None:
    """Flushing reaches a dirty mapping by the inode's number, whatever has become of its names."""
    (mounted.path / "d").mkdir()
    for name in ("renamed", "unlinked", "d/covered"):
        (mounted.path / name).write_bytes(bytes(4096))
    agent("files = [open(f'mnt/{name}', 'r+b') for name in ('renamed', 'unlinked', 'd/covered')]")
    agent("maps = [mmap.mmap(file.fileno(), 0) for file in files]")
    inodes = agent("[os.fstat(file.fileno()).st_ino for file in files]")
    agent("for m in maps: m[0] = 5")
    os.rename(mounted.path / "renamed", mounted.path / "other")
    (mounted.path / "unlinked").unlink()
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", mounted.path / "d"], check=True)
    try:
        mounted.transport.flush_writable()
    finally:
        subprocess.run(["umount", mounted.path / "d"], check=True)
    assert [content(mounted, ino)[0] for ino in inodes] == [5, 5, 5]


@pytest.mark.interpreted
@by_handle
def test_a_descriptor_for_writing_stops_exec_and_flushing_does_not(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = mounted.path / "true"
    shutil.copy("/bin/true", program)
    fd = mounted.transport._handles.open(program.stat().st_ino, os.O_RDWR)
    with pytest.raises(OSError, match="Text file busy"):
        subprocess.run([program], check=True)
    os.close(fd)
    flush, ran = mounted.transport._handles.flush, []

    def flush_and_run(fd: int) -> None:
        flush(fd)
        ran.append(subprocess.run([program], check=True).returncode)

    monkeypatch.setattr(mounted.transport._handles, "flush", flush_and_run)
    with (mounted.path / "f").open("w"):
        wait_until(lambda: mounted.transport.statistics().writers == 1)
        mounted.transport.flush_writable()
    assert ran == [0]


@pytest.mark.interpreted
def test_an_error_while_flushing_fails_the_checkpoint(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mounted.path / "f").write_bytes(bytes(4096))
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0] = 1")

    def full(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(type(mounted.workspace.view), "write", full)
        with pytest.raises(OSError, match=r"space|Input/output"):
            mounted.checkpoint()
    agent("m[0] = 2")
    mounted.checkpoint()
    assert content(mounted, agent("os.fstat(f.fileno()).st_ino"))[0] == 2


# What the kernel keeps


def behind_the_kernel(mounted: Mounted, ino: int, data: bytes) -> None:
    """Replace a file's content in the view without telling the kernel."""
    with mounted.workspace.lock:
        mounted.workspace.view.setattr(ino, SetAttr(size=0), Caller())
        mounted.workspace.view.write(ino, 0, data, Caller())


def test_invalidating_an_inode_leaves_its_size(mounted: Mounted, agent: Agent) -> None:
    """An O_APPEND write goes to where the kernel believes the end to be, until a GETATTR is answered."""
    (mounted.path / "f").write_bytes(b"x" * 10)
    ino = (mounted.path / "f").stat().st_ino
    agent("a = os.open('mnt/f', os.O_RDWR | os.O_APPEND)")
    behind_the_kernel(mounted, ino, b"yyy")
    assert mounted.transport._notify(protocol.invalidate_inode(ino))
    agent("os.write(a, b'end')")
    assert content(mounted, ino) == b"yyy" + bytes(7) + b"end"
    behind_the_kernel(mounted, ino, b"yyy")
    assert mounted.transport._notify(protocol.invalidate_inode(ino))
    mounted.transport._handles.ask_size(ino)
    agent("os.write(a, b'end')")
    assert content(mounted, ino) == b"yyyend"


def test_invalidating_an_inode_waits_for_its_unanswered_read(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why nothing is held while notifying."""
    (mounted.path / "f").write_bytes(bytes(8192))
    ino = (mounted.path / "f").stat().st_ino
    mounted.transport._notify(protocol.invalidate_inode(ino))
    agent("f = os.open('mnt/f', os.O_RDONLY)")
    reading, answer = threading.Event(), threading.Event()

    def held(handler: Handler, *arguments: Any) -> Reply:
        reading.set()
        assert answer.wait(30)
        return handler(*arguments)

    wrap_handler(monkeypatch, protocol.READ, held)
    agent.start("os.pread(f, 8192, 0) == bytes(8192)")
    assert reading.wait(10)
    thread, done = in_thread(lambda: mounted.transport._notify(protocol.invalidate_inode(ino)))
    assert not done.wait(ABSENT_S)
    answer.set()
    assert agent.result() is True
    assert done.wait(10)
    thread.join()


@mounts_inside
def test_plain_invalidation_of_a_name_detaches_mounts(mounted: Mounted) -> None:
    """Expiring it does not, while the name stands for the same inode."""
    inside = mounted.path / "proc"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", inside], check=True)
    assert mounted.transport._notify(protocol.expire_entry(1, b"proc"))
    os.stat(inside)
    assert os.path.ismount(inside)
    assert mounted.transport._notify(protocol.invalidate_entry(1, b"proc"))
    assert not os.path.ismount(inside)


def test_an_unlinked_open_file_is_forgotten_at_its_last_close(mounted: Mounted, agent: Agent) -> None:
    agent("f = open('mnt/f', 'w')")
    ino = (mounted.path / "f").stat().st_ino
    (mounted.path / "f").unlink()
    os.stat(mounted.path)
    served = mounted.transport.session.served
    assert ino in served.lookups
    agent("f.close()")
    wait_until(lambda: ino not in served.lookups)


def test_request_numbers_restart_with_every_mount(fuse: None, tmp_path: Path) -> None:
    """So a journaled request key needs the mount's own id, too."""
    numbers = []
    for turn in range(2):
        path = tmp_path / f"mnt{turn}"
        path.mkdir()
        connection = mounts.mount(str(path), connection_id=1)
        try:
            with Agent() as agent:
                agent.start(f"os.stat({str(path)!r})")
                assert select.select([connection.fd], [], [], 10)[0]
                _, _, unique, _ = protocol.header(bytearray(os.read(connection.fd, n.REQUEST_BYTES)))
                numbers.append(unique)
                os.write(connection.fd, protocol.error(unique, errno.EIO))
                assert agent.result() == ("errno", errno.EIO)
        finally:
            mounts.unmount(str(path), force=True)
            os.close(connection.fd)
    assert numbers[0] == numbers[1]


# What is negotiated


def test_what_is_never_negotiated(mounted: Mounted) -> None:
    """The writeback cache would own sizes and times; passthrough to files would hide writes from us."""
    passthrough = 1 << 37
    offered = struct.pack("<IIQQIIII", 0, protocol.INIT, 2, 0, 0, 0, 0, 0) + struct.pack(
        "<IIIII44x", 7, 45, 0, 0xFFFFFFFF, 0xFFFFFFFF
    )
    agreed, reply = n.negotiate(offered)
    low, high = struct.unpack_from("<I", reply, 16 + 12)[0], struct.unpack_from("<I", reply, 16 + 32)[0]
    for init in (agreed, mounted.transport.connection.init):
        assert not init.has(n.WRITEBACK_CACHE)
        assert not init.has(passthrough)
        assert init.has(n.HAS_EXPIRE_ONLY)
    assert not (low | high << 32) & (n.WRITEBACK_CACHE | passthrough)


def test_one_descriptor_a_mount_however_many_readers(mount_workspace: Callable[[], Mounted]) -> None:
    """A cloned one would abort the calls of its clients when its owner died."""
    before = fuse_descriptors()
    many = [mount_workspace() for _ in range(3)]
    for mounted in many:
        (mounted.path / "f").write_text("x")
    assert fuse_descriptors() - before == len(many)


def fuse_descriptors() -> int:
    """How many descriptors of /dev/fuse this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse"
        except FileNotFoundError:
            continue
    return found


@as_others
def test_a_set_id_program_in_a_workspace_is_none_for_the_host(mounted: Mounted) -> None:
    """Another user does not come as far as the mount, and the mount grants nothing to one who is there."""
    program = mounted.path / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    mounted.path.parent.chmod(0o700)
    assert stat.S_IMODE(program.stat().st_mode) == 0o4755
    from_outside = f"import os; os.setuid(1000); os.execv({str(program)!r}, ['id', '-u'])"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        client(from_outside)
    assert "PermissionError" in caught.value.stderr
    inside = "import os, sys; os.chdir(sys.argv[1]); os.setuid(1000); os.execv('./id', ['id', '-u'])"
    assert client(inside, mounted.path).stdout == "1000\n"
