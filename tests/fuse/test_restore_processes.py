"""What a restore means for programs that are in the middle of something: directories, executables, mounts, looks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs.compare import Changes
from cowfs.errors import Busy
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.dispatch import Handler, Reply
from tests.support.mounting import by_handle, mounts_inside

from .agent import Agent
from .conftest import Mounted, unknown_file, wait_until, wrap_handler

ESTALE, EIO = ("errno", errno.ESTALE), ("errno", errno.EIO)


@pytest.fixture
def agent(mounted: Mounted) -> Iterator[Agent]:
    """A program whose working directory is the mount's parent."""
    with Agent() as made:
        made(f"os.chdir({str(mounted.path.parent)!r})")
        yield made


# Directories


def remove(directory: Path) -> None:
    """rmdir, with what is in it."""
    shutil.rmtree(directory)


def replace(directory: Path) -> None:
    """Rename another directory over it, once it is empty."""
    (directory / "x").unlink()
    other = directory.with_name("other")
    other.mkdir()
    other.rename(directory)


@pytest.mark.parametrize("end", [remove, replace])
def test_a_removed_directory_that_somebody_is_in_comes_back_for_everybody_else(
    mounted: Mounted, agent: Agent, end: Any
) -> None:
    """The kernel lets nobody list or change a directory that it saw removed: it has to be given another one."""
    directory = mounted.path / "d"
    directory.mkdir()
    (directory / "x").write_text("x")
    ino = directory.stat().st_ino
    snapshot = mounted.checkpoint()
    agent("os.chdir('mnt/d')")
    end(directory)
    for turn in range(2):
        mounted.restore(snapshot)
        assert directory.stat().st_ino == ino
        assert os.listdir(directory) == ["x"]
        assert (directory / "x").read_text() == "x"
        (directory / "new").write_text("new")
        assert sorted(os.listdir(directory)) == ["new", "x"]
        if not turn:
            assert agent("os.stat('.')") == EIO
            assert agent("open('more', 'w')") == EIO
    assert agent("os.chdir('/')") is None
    assert os.listdir(mounted.path) == ["d"]


def test_a_working_directory_comes_back_with_its_state(mounted: Mounted, agent: Agent) -> None:
    """One that a restore took away (nobody removed it) is usable again when another restore brings it back."""
    without = mounted.checkpoint()
    (mounted.path / "d").mkdir()
    agent("os.chdir('mnt/d')")
    snapshot = mounted.checkpoint()
    mounted.restore(without)
    assert agent("os.stat('.')") == ESTALE
    mounted.restore(snapshot)
    assert agent("open('f', 'w').write('x')") == 1
    assert os.listdir(mounted.path / "d") == ["f"]


def test_attributes_of_the_root_are_those_of_the_snapshot(mounted: Mounted) -> None:
    """No answer ever tells the kernel of the root: it knows it from the start."""
    (mounted.path / "f").touch()
    mounted.path.chmod(0o711)
    os.setxattr(mounted.path, "user.a", b"old")
    before, snapshot = mounted.path.stat(), mounted.checkpoint()
    mounted.path.chmod(0o755)
    os.setxattr(mounted.path, "user.a", b"new")
    (mounted.path / "d").mkdir()
    assert mounted.path.stat() != before
    mounted.restore(snapshot)
    assert mounted.path.stat() == before
    assert os.getxattr(mounted.path, "user.a") == b"old"


# Mounts inside


@mounts_inside
def test_a_mount_whose_place_has_another_number_is_refused(mounted: Mounted) -> None:
    inside = mounted.path / "proc"
    inside.mkdir()
    snapshot = mounted.checkpoint()
    inside.rmdir()
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", inside], check=True)
    try:
        with pytest.raises(Busy, match="proc"):
            mounted.restore(snapshot)
        assert os.path.ismount(inside)
    finally:
        subprocess.run(["umount", inside], check=True)
    mounted.restore(snapshot)


@mounts_inside
def test_a_mount_stays_when_what_it_lies_in_is_moved_back(mounted: Mounted) -> None:
    inside = mounted.path / "a" / "proc"
    inside.mkdir(parents=True)
    snapshot = mounted.checkpoint()
    os.rename(mounted.path / "a", mounted.path / "b")
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", mounted.path / "b" / "proc"], check=True)
    try:
        (mounted.path / "b" / "proc" / "mark").touch()
        mounted.restore(snapshot)
        assert (inside / "mark").exists()
        assert not (mounted.path / "b").exists()
    finally:
        subprocess.run(["umount", inside], check=True)


# Executables

_PROGRAM = """
#include <stdio.h>
int answer(void);
int main(void) {{ while (getchar() != EOF) {{ printf("%d\\n", answer()); fflush(stdout); }} return 0; }}
__attribute__((noinline, aligned(4096))) int answer(void) {{ __asm__ volatile (""); return {answer}; }}
"""


def test_a_running_executable_runs_the_restored_bytes(mounted: Mounted, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    built = []
    for answer in (1, 2):
        source = tmp_path / "program.c"
        source.write_text(_PROGRAM.format(answer=answer))
        subprocess.run(["gcc", "-O1", "-o", tmp_path / f"program{answer}", source], check=True)
        built.append((tmp_path / f"program{answer}").read_bytes())
    program = mounted.path / "program"
    program.write_bytes(built[0])
    program.chmod(0o755)
    snapshot = mounted.checkpoint()
    program.write_bytes(built[1])
    assert len(built[0]) == len(built[1])
    # By a shell: this process serves the mount, and cannot while it waits for the exec of a child.
    with subprocess.Popen(
        ["sh", "-c", 'exec "$0"', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for expected in (b"2\n", b"1\n"):
            running.stdin.write(b"?")
            assert running.stdout.readline() == expected
            if expected == b"2\n":
                mounted.restore(snapshot)
        running.stdin.close()
        assert running.wait(10) == 0


def test_a_private_mapping_shows_the_restored_bytes(mounted: Mounted, agent: Agent) -> None:
    """Of pages that the program has not written itself, as of a mapped library."""
    (mounted.path / "lib").write_bytes(b"old" * 2000)
    snapshot = mounted.checkpoint()
    (mounted.path / "lib").write_bytes(b"new" * 2000)
    agent(
        "f = os.open('mnt/lib', os.O_RDONLY); m = mmap.mmap(f, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)"
    )
    agent("m[0:3] = b'own'")
    assert agent("m[4098:4101]") == b"new"
    mounted.restore(snapshot)
    assert agent("(m[0:3], m[4098:4101])") == (b"own", b"old")


# Looks in flight


def test_a_look_that_is_being_answered_at_the_swap(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap waits for the answer; the kernel, which knew nothing of the inode, is told again until it does."""
    snapshot = unknown_file(mounted, 10, 999)
    computed, answer = threading.Event(), threading.Event()

    def held(handler: Handler, *arguments: Any) -> Reply:
        reply = handler(*arguments)
        computed.set()
        assert answer.wait(30)
        return reply

    with monkeypatch.context() as patch:
        wrap_handler(patch, protocol.LOOKUP, held)
        agent.start("os.stat('mnt/f').st_size")
        assert computed.wait(10)
        restorer = threading.Thread(target=mounted.restore, args=(snapshot,))
        restorer.start()
        answer.set()
        restorer.join(30)
        assert not restorer.is_alive()
    assert agent.result() in (10, 999)
    assert agent("(os.stat('mnt/f').st_size, open('mnt/f', 'rb').read())") == (10, b"x" * 10)


def test_requests_are_answered_while_the_kernel_is_notified(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        (mounted.path / f"f{i}").write_bytes(b"old")
    snapshot = mounted.checkpoint()
    for i in range(3):
        (mounted.path / f"f{i}").write_bytes(b"new")
    (mounted.path / "g").touch()
    wait_until(lambda: mounted.transport.statistics().writers == 0)  # else what is notified first is a flush
    notify = mounted.transport._notify
    seen: list[Any] = []

    def notify_and_use(message: bytes) -> bool:
        if threading.current_thread() is threading.main_thread():
            seen.append(agent(f"(os.mkdir('mnt/d{len(seen)}'), open('mnt/f0', 'rb').read(), os.path.exists('mnt/g'))"))
        return notify(message)

    monkeypatch.setattr(mounted.transport, "_notify", notify_and_use)
    mounted.restore(snapshot)
    assert len(seen) >= 4
    assert seen[-1][1] == b"old"
    assert set(os.listdir(mounted.path)) == {"f0", "f1", "f2"} | {f"d{i}" for i in range(len(seen))}
    assert agent("[open(f'mnt/f{i}', 'rb').read() for i in range(3)]") == [b"old"] * 3


# Jobs of our own


@pytest.mark.interpreted
@by_handle
def test_unmounting_waits_for_a_refresh_of_ours(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that we have open ourselves does not make the mount busy."""
    (mounted.path / "f").write_bytes(b"x")
    ino = (mounted.path / "f").stat().st_ino
    asked, go_on = threading.Event(), threading.Event()

    def ask(ino: int) -> None:
        fd = mounted.transport._handles.open(ino, os.O_PATH)
        asked.set()
        assert go_on.wait(30)
        os.fstat(fd)
        os.close(fd)

    monkeypatch.setattr(mounted.transport._handles, "ask_size", ask)
    with mounted.workspace.lock:
        mounted.transport.session.served.stale.add(ino)
    agent("open('mnt/f').close()")
    assert asked.wait(10)
    wait_until(lambda: mounted.transport.statistics().opens == 0)
    unmounter = threading.Thread(target=mounted.transport.unmount)
    unmounter.start()
    go_on.set()
    unmounter.join(30)
    assert not os.path.ismount(mounted.path)


@pytest.mark.interpreted
def test_handing_over_waits_for_a_refresh_of_ours(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs requests to be answered, so they are until it is done."""
    (mounted.path / "f").write_bytes(b"x")
    ino = (mounted.path / "f").stat().st_ino
    asked, go_on, ask_size = threading.Event(), threading.Event(), mounted.transport._handles.ask_size

    def ask(ino: int) -> None:
        asked.set()
        assert go_on.wait(30)
        mounted.transport._notify(protocol.invalidate_inode(ino))
        ask_size(ino)

    monkeypatch.setattr(mounted.transport._handles, "ask_size", ask)
    with mounted.workspace.lock:
        mounted.transport.session.served.stale.add(ino)
    agent("open('mnt/f').close()")
    assert asked.wait(10)
    stopper = threading.Thread(target=mounted.transport.session.stop)
    stopper.start()
    go_on.set()
    stopper.join(30)
    assert not stopper.is_alive()
    mounted.transport.session._stopping = False
    mounted.transport.session.start()


def test_names_are_cached_again_after_a_restore(mounted: Mounted, agent: Agent) -> None:
    (mounted.path / "f").write_bytes(b"x")
    snapshot = mounted.checkpoint()
    mounted.restore(snapshot)
    assert mounted.transport.session.served.valid == protocol.FOREVER
    agent("os.stat('mnt/f').st_size")
    before = mounted.transport.statistics().requests
    agent("[os.stat('mnt/f').st_size for _ in range(10)]")
    assert mounted.transport.statistics().requests == before


# Figures


def test_flushing_a_clean_inode_is_cheap(mounted: Mounted) -> None:
    count = 300
    files = [(mounted.path / f"f{i}").open("wb") for i in range(count)]
    began = time.perf_counter()
    mounted.transport.flush_writable()
    took_ms = (time.perf_counter() - began) * 1e3
    for file in files:
        file.close()
    print(f"flushing a clean inode: {took_ms / count:.3f} ms")
    assert took_ms / count < 5


def test_what_a_restore_tells_of_handles(mounted: Mounted, agent: Agent) -> None:
    """Open for writing and still there, and anything open whose inode is gone: readers too."""
    (mounted.path / "kept").write_bytes(b"x")
    snapshot = mounted.checkpoint()
    (mounted.path / "gone").write_bytes(b"x")
    agent("fds = [os.open('mnt/kept', os.O_RDONLY), os.open('mnt/kept', os.O_RDWR), os.open('mnt/gone', os.O_RDONLY)]")
    kept, gone = ((mounted.path / name).stat().st_ino for name in ("kept", "gone"))
    handles = mounted.restore(snapshot).handles
    assert sorted((each.ino, each.writable, each.gone) for each in handles) == [
        (kept, True, False), (gone, False, True),
    ]  # fmt: skip
    assert not mounted.transport.session.served.invalidating
    assert Changes().revived == set()
