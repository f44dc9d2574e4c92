"""What `cowfs rm WS:PATH` removes takes no room any more, whoever has served the workspace; open files live on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cowfs.errors import Busy
from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually

pytestmark = needs_mounts

FILES = 40


def filled(path: Path) -> None:
    """A directory ``d`` with files and a directory."""
    (path / "d" / "below").mkdir(parents=True)
    for number in range(FILES):
        (path / "d" / str(number)).write_bytes(b"%d" % number * 9000)


def usage(owned: Owned) -> tuple[int, int]:
    return owned.engine.host.usage(owned.engine.workspace("ws").id)


def opened(owned: Owned) -> bool:
    try:
        usage(owned)
    except Busy:
        return False
    return True


@pytest.mark.parametrize("killed", [False, True])
def test_what_is_removed_from_a_workspace_that_is_not_mounted(owned: Owned, killed: bool) -> None:
    path = owned.make("ws")
    before = usage(owned)
    filled(path)
    owned.engine.checkpoint("ws", "filled")
    owned.mounts.umount("ws")
    if killed:
        owned.kill(owned.worker_of("ws"))
    assert owned.engine.paths.remove("ws", b"d") == FILES + 2
    assert usage(owned) == before


def test_what_no_kernel_knew_is_removed_after_a_worker_s_death(owned: Owned) -> None:
    path = owned.make("ws")
    before = usage(owned)
    filled(path)
    base = usage(owned)
    owned.engine.paths.clone("ws", b"d", b"copy")  # the kernel knows nothing of it
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r}); held = os.open('copy/7', os.O_RDONLY); os.chdir('copy/below')")
        owned.kill(owned.worker_of("ws"))
        eventually(lambda: opened(owned), "a worker that serves it")
        owned.path("ws")
        assert owned.engine.paths.remove("ws", b"copy") == FILES + 2
        files = usage(owned)[1] - base[1]
        assert 2 <= files <= 3, "what is open, what somebody is in, and what the kernel keeps of the way to it"
        assert agent("(os.fstat(held).st_size, os.pread(held, 3, 6000), os.listdir('.'))") == (9000, b"777", [])
        assert not (path / "copy").exists()
        agent("os.chdir('/'); os.close(held)")
        eventually(lambda: usage(owned) == base, "all of it is gone")
    assert owned.engine.paths.remove("ws", b"d") == FILES + 2
    eventually(lambda: usage(owned) == before, "what the kernel knew is gone when it forgets it")
