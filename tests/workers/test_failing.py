"""Something fails in a worker that begins to serve a mount, or lets go of one: programs go on all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import Busy
from cowfs_daemon.fuse.mount import unless_gone
from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually, other_workers

pytestmark = needs_mounts

MAPPED = (
    "held = os.open('mapped', os.O_RDWR | os.O_CREAT); os.ftruncate(held, 4096); mapped = mmap.mmap(held, 4096); "
    "mapped[:6] = b'before'"
)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Owned, Path]]:
    with other_workers(tmp_path, monkeypatch, "failing", "COWFS_TEST_FAILURE", 2) as given:
        yield given


def checkpointed(owned: Owned, name: str) -> bytes:
    """What a checkpoint has of the file that a program maps."""
    owned.engine.checkpoint(name, "mapped")
    return b"".join(owned.engine.show(f"{name}@latest", b"mapped")).rstrip(b"\0")


def test_a_mount_that_cannot_be_served_goes_again(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    owned.engine.create("ws")
    failure.write_text("root")
    with pytest.raises(OSError, match="open files") as caught:
        owned.path("ws")
    assert caught.value.errno == errno.EMFILE
    assert not [line for line in Path("/proc/self/mounts").read_text().splitlines() if os.fspath(owned.store) in line]
    path = owned.path("ws")
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        assert agent(MAPPED) is None
        assert checkpointed(owned, "ws") == b"before"
        agent("mapped.close()")


def test_a_snapshot_that_cannot_be_served_is_mounted_the_next_time(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    (owned.make("ws") / "file").write_text("content")
    snapshot = owned.engine.checkpoint("ws", "made").snapshot.id
    failure.write_text("root")
    with pytest.raises(OSError, match="open files"):
        owned.path(snapshot)
    assert (owned.path(snapshot) / "file").read_text() == "content"


def test_programs_wait_in_a_mount_that_cannot_be_taken_over_yet(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    path = owned.make("ws")
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        assert agent(MAPPED) is None
        failure.write_text("root")
        owned.kill(owned.worker_of("ws"))
        eventually(lambda: not failure.exists() and "ws" not in owned.owner.serving._served, "a failure")
        with pytest.raises(Busy):
            owned.engine.checkpoint("ws", "cannot flush what is mapped")
        assert owned.path("ws") == path
        agent("mapped[:5] = b'after'")
        assert checkpointed(owned, "ws") == b"aftere"
        agent("mapped.close()")


def test_a_workspace_whose_journal_cannot_be_synced_stays(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    path = owned.make("ws")
    first, second = owned.two_workers()
    (path / "file").write_text("content")
    failure.write_text("sync")
    assert not owned.move("ws", second)
    assert not failure.exists()
    assert owned.worker_of("ws") is first
    (path / "file").write_text("still served")
    with pytest.raises(OSError, match="Input/output"):
        owned.engine.checkpoint("ws", "not durable")
    owned.kill(first)
    assert (path / "file").read_text() == "still served"
    (path / "file").write_text("changed")
    assert owned.engine.checkpoint("ws", "durable").changed


def test_a_workspace_that_can_neither_move_nor_stay_is_mounted_again(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    path = owned.make("ws")
    first, second = owned.two_workers()
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r}); unnamed = os.open('gone', os.O_RDWR | os.O_CREAT); os.unlink('gone')")
        failure.write_text("root")  # it stays since a file without a name is open: its mount is to be served again
        ident = owned.engine.workspace("ws").id
        assert not owned.owner.serving.move(ident, second, owned.owner._again)
        assert not failure.exists()
        assert owned.worker_of("ws") is first
        assert agent("(os.write(unnamed, b'kept'), os.pread(unnamed, 4, 0))") == (4, b"kept")
        assert owned.engine.checkpoint("ws", "after").changed
        owned.engine.settle()
        agent("os.close(unnamed)")
        eventually(lambda: owned.move("ws", second), "a move")


def test_a_mount_that_goes_while_it_is_begun_can_be_made_again(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    owned.make("ws")
    owned.mounts.umount("ws")
    failure.write_text("gone")
    with pytest.raises(Busy, match="unmounted while"):
        owned.path("ws")
    assert not failure.exists()
    (owned.path("ws") / "file").write_text("served")


def test_a_move_after_which_nothing_can_be_served_leaves_the_workspace_to_the_next(failing: tuple[Owned, Path]) -> None:
    owned, failure = failing
    path = owned.make("ws")
    _, second = owned.two_workers()
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        assert agent(MAPPED) is None
        failure.write_text("root")
        assert not owned.owner.serving.move(owned.engine.workspace("ws").id, second, owned.owner._again)
        assert owned.worker_of("ws") is second
        assert checkpointed(owned, "ws") == b"before"
        agent("mapped.close()")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED])
def test_a_mount_that_goes_while_it_is_begun_is_busy(number: int) -> None:
    with pytest.raises(Busy, match="unmounted while"), unless_gone():
        raise OSError(number, os.strerror(number))


def test_other_errors_are_told() -> None:
    with pytest.raises(PermissionError), unless_gone():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
