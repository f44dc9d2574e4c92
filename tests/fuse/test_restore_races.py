"""The narrow places of a restore, each made to happen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from cowfs.compare import Changes
from cowfs.view.inode import Caller, SetAttr

from .agent import Agent
from .conftest import Mounted, wait_until


@pytest.fixture
def agent(mounted: Mounted) -> Iterator[Agent]:
    """A program whose working directory is the mount's parent."""
    with Agent() as made:
        made(f"os.chdir({str(mounted.path.parent)!r})")
        yield made


def made_file(mounted: Mounted, data: bytes) -> int:
    path = mounted.path / "f"
    path.write_bytes(data)
    return path.stat().st_ino


def behind_the_kernel(mounted: Mounted, ino: int, data: bytes) -> None:
    """Replace a file's content in the view without telling the kernel, as a swap of views does."""
    with mounted.workspace.lock:
        mounted.workspace.view.setattr(ino, SetAttr(size=0), Caller())
        mounted.workspace.view.write(ino, 0, data, Caller())


def test_a_page_written_back_during_a_restore_is_taken_back(mounted: Mounted, agent: Agent) -> None:
    ino = made_file(mounted, b"old" + bytes(8000))
    agent("f = open('mnt/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0:3] = b'new'; m[5000] = 1")
    changes = Changes(inodes={ino: (None, None)})
    with mounted.workspace.lock:
        mounted.transport.begin_restore(changes)
    agent("m.flush()")  # Acknowledged and discarded: the kernel holds it as clean from here on.
    assert agent("m[0:3]") == b"new"
    mounted.transport.invalidate(changes)
    assert agent("(m[0:3], m[5000], os.pread(f.fileno(), 3, 0))") == (b"old", 0, b"old")
    agent("m[0:3] = b'aft'; m.flush()")
    assert (mounted.path / "f").read_bytes()[:3] == b"aft"


def test_append_with_a_size_that_the_kernel_has_wrong(mounted: Mounted, agent: Agent) -> None:
    ino = made_file(mounted, b"x" * 10)
    agent("a = os.open('mnt/f', os.O_RDWR | os.O_APPEND)")
    for size in (3, 5000):
        with mounted.workspace.lock:
            mounted.transport.session.served.appending.add(ino)
            behind_the_kernel(mounted, ino, b"y" * size)
        agent("os.write(a, b'end')")
        expected = b"y" * size + b"end"
        wait_until(lambda expected=expected: agent("os.fstat(a).st_size") == len(expected))  # type: ignore[misc]
        assert agent("os.pread(a, 9000, 0)") == expected


def test_append_through_a_descriptor_opened_with_a_stale_size(mounted: Mounted, agent: Agent) -> None:
    ino = made_file(mounted, b"x" * 100)
    agent("os.stat('mnt/f').st_size")
    with mounted.workspace.lock:
        mounted.transport.session.served.stale.add(ino)
        behind_the_kernel(mounted, ino, b"short")
    agent("a = os.open('mnt/f', os.O_RDWR | os.O_APPEND); os.write(a, b'!')")
    wait_until(lambda: agent("os.fstat(a).st_size") == 6)
    assert agent("os.pread(a, 100, 0)") == b"short!"
    agent("os.close(a)")
    wait_until(lambda: not mounted.transport.session.served.appending)


def test_nothing_is_cached_while_a_restore_runs(mounted: Mounted, agent: Agent) -> None:
    def lookups() -> int:
        return mounted.transport.statistics().requests

    with mounted.transport.restoring():
        assert agent("os.path.exists('mnt/f')") is False
        first = lookups()
        assert agent("os.path.exists('mnt/f')") is False
        assert lookups() > first
        ino = made_file(mounted, b"x")
        before = lookups()
        assert agent("os.stat('mnt/f').st_ino") == ino
        assert lookups() > before
    assert agent("os.stat('mnt/f').st_ino") == ino
    quiet = lookups()
    assert agent("os.stat('mnt/f').st_ino") == ino
    assert lookups() == quiet


@pytest.mark.interpreted
def test_a_restore_that_fails_after_its_swap_leaves_no_old_data(
    mounted: Mounted, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_file(mounted, b"old")
    snapshot = mounted.checkpoint()
    agent("f = open('mnt/f', 'r+b'); f.write(b'new'); f.flush(); m = mmap.mmap(f.fileno(), 3); m[0] = 65")

    def fail() -> None:
        raise OSError(5, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(mounted.workspace.journal, "sync", fail)
        with pytest.raises(OSError, match="broken disk"):
            mounted.restore(snapshot)
    assert agent("(os.pread(f.fileno(), 10, 0), m[:])") == (b"old", b"old")
    agent("m[0] = 66; m.flush()")
    assert (mounted.path / "f").read_bytes() == b"Bld"


def test_ten_thousand_changed_files(mounted: Mounted, agent: Agent) -> None:
    count = 10_000
    agent(f"for i in range({count}): os.close(os.open(f'mnt/{{i}}', os.O_CREAT | os.O_WRONLY))")
    snapshot = mounted.checkpoint()
    agent(f"for i in range({count}): os.truncate(f'mnt/{{i}}', i + 1)")
    began = time.perf_counter()
    mounted.restore(snapshot)
    print(f"restore of {count} changed files: {(time.perf_counter() - began) * 1e3:.0f} ms")
    assert agent(f"sum(os.stat(f'mnt/{{i}}').st_size for i in range({count}))") == 0
    assert len(os.listdir(mounted.path)) == count
