"""A worker that dies at any point of a request: the program sees a pause, and what it asked for happened once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowfs_daemon import compose, remote
from cowfs_daemon.ports import WorkerGone
from tests.fuse.agent import Agent
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually

pytestmark = needs_mounts

PREPARE = """
os.mkdir('dir'); os.mkdir('full'); open('full/x', 'w').close()
open('file', 'w').write('0123456789' * 1000); open('other', 'w').write('other'); os.symlink('file', 'link')
os.setxattr('file', 'user.a', b'1'); os.link('file', 'second')
appending = os.open('file', os.O_RDWR | os.O_APPEND)
reading = os.open('other', os.O_RDONLY)
writing = os.open('file', os.O_RDWR)
""".strip().replace("\n", "; ")

STEPS = {
    "mkdir": "os.mkdir('new', 0o751)",
    "rmdir": "os.rmdir('dir')",
    "rmdir_full": "os.rmdir('full')",
    "mknod": "os.mkfifo('new', 0o640)",
    "symlink": "os.symlink('target', 'new')",
    "link": "os.link('file', 'new')",
    "create": "os.close(os.open('new', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))",
    "create_again": "os.close(os.open('file', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))",
    "create_and_write": "(lambda fd: (os.write(fd, b'abc'), os.close(fd)))"
    "(os.open('new', os.O_RDWR | os.O_CREAT, 0o600))",
    "tmpfile": "(lambda fd: (os.write(fd, b'abc'), os.link(f'/proc/self/fd/{fd}', 'new', follow_symlinks=True),"
    " os.close(fd)))(os.open('.', os.O_RDWR | os.O_TMPFILE, 0o600))",
    "append": "(os.write(appending, b'one'), os.write(appending, b'two'))",
    "overwrite": "os.pwrite(writing, b'in the middle', 4000)",
    "truncate": "os.truncate('file', 77)",
    "punch": "os.posix_fallocate(appending, 0, 20000)",
    "copy": "os.copy_file_range(reading, writing, 3, 1, 10)",
    "chmod": "os.chmod('file', 0o4711)",
    "chown": "os.chown('file', 12, 34)",
    "utime": "os.utime('file', ns=(1, 2))",
    "setxattr": "os.setxattr('file', 'user.b', b'2', os.XATTR_CREATE)",
    "removexattr": "os.removexattr('file', 'user.a')",
    "unlink": "os.unlink('second')",
    "unlink_open": "(os.unlink('other'), os.pread(reading, 10, 0))",
    "rename": "os.rename('file', 'dir/moved')",
    "rename_over": "(os.rename('file', 'other'), os.pread(reading, 10, 0))",
    "fsync": "(os.write(appending, b'durable'), os.fsync(appending))",
}
POINTS_MAX = 40


def look(top: Path) -> dict[str, Any]:
    """Everything below ``top`` but times and inode numbers."""
    found: dict[str, Any] = {}
    for directory, _, names in [*os.walk(top)]:
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            names_of = os.listxattr(path, follow_symlinks=False)
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names_of}
            size = None if stat.S_ISDIR(status.st_mode) else status.st_size
            found[os.path.relpath(path, top)] = (
                status.st_mode, status.st_nlink, status.st_uid, status.st_gid, size, content, xattrs,
            )  # fmt: skip
    return found


class Doomed:
    """A store whose workers die when told to, and an ext4 directory to compare with."""

    def __init__(self, owned: Owned, doom: Path, plain: Path) -> None:
        self.owned = owned
        self.doom = doom
        self.plain = plain
        self.kills = 0

    def dies(self, step: str, point: int) -> bool:
        """Do ``step`` with a worker that dies at ``point``; False when it had no such point."""
        name = f"ws-{self.kills}"
        died = False
        path = self.owned.make(name)
        plain = self.plain / name
        plain.mkdir(mode=0o755)
        answers, views = [], []
        for top in (path, plain):
            with Agent(timeout_s=60) as agent:
                agent(f"os.chdir({os.fspath(top)!r}); os.umask(0o022)")
                assert agent(PREPARE) is None
                if top == path:
                    self.doom.write_text(str(point))
                answers.append(agent(step))
                if top == path:
                    died = not self.doom.exists()
                    self.doom.unlink(missing_ok=True)
                answers.append(agent("(os.fstat(appending).st_size, os.pread(reading, 100, 0))"))
                answers.append(agent("(os.write(appending, b'after'), os.fstat(appending).st_size)"))
                views.append(look(top))
        assert answers[:3] == answers[3:], (step, point)
        assert views[0] == views[1], (step, point)
        self.kills += 1
        self.owned.mounts.umount(name, force=True)
        self.owned.engine.remove(name, force=True)
        return died


@pytest.fixture
def doomed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doomed]:
    doom = tmp_path / "doom"
    monkeypatch.setenv("COWFS_TEST_DOOM", str(doom))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setattr(remote.WorkerProcess, "MODULE", "tests.workers.doomed")
    monkeypatch.setattr(compose, "LOSSES_MAX", 10**6)
    (tmp_path / "plain").mkdir()
    owned = Owned(tmp_path, 1)
    try:
        yield Doomed(owned, doom, tmp_path / "plain")
    finally:
        doom.unlink(missing_ok=True)
        owned.close()


@pytest.mark.parametrize("name", STEPS)
def test_a_worker_that_dies_at_any_point_of_a_call(doomed: Doomed, name: str) -> None:
    point = 1
    while doomed.dies(STEPS[name], point):
        assert point < POINTS_MAX
        point += 1
    assert point > 1, "no point was passed"


@pytest.mark.parametrize("settled", [False, True])
def test_an_open_file_without_a_name_outlives_the_worker(owned: Owned, settled: bool) -> None:
    path = owned.make("one")
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        agent("new = os.open('new', os.O_RDWR | os.O_CREAT); os.write(new, b'0123456789' * 100_000)")
        agent("os.mkdir('dir'); open('dir/old', 'w').write('old'); old = os.open('dir/old', os.O_RDONLY)")
        owned.engine.checkpoint("one", "with names")
        agent("os.unlink('new'); os.unlink('dir/old')")
        for turn in range(3):
            if settled:
                owned.engine.checkpoint("one", "without", allow_empty=True)
                owned.engine.settle()
            owned.kill(owned.worker_of("one"))
            assert agent(f"os.pread(new, 10, {500_000 - turn})") == (b"0123456789" * 2)[-turn % 10 :][:10]
            assert agent("os.read(old, 10)") == (b"" if turn else b"old")
            assert agent("os.write(new, b'more')") == 4
            assert agent("os.fstat(new).st_size") == 1_000_000 + 4 * (turn + 1)
        assert agent("os.pread(new, 100, 1_000_000)") == b"more" * 3
        agent("os.close(new); os.close(old)")
    assert sorted(os.listdir(path)) == ["dir"]


def test_files_without_a_name_outlive_a_worker_and_moves(owned: Owned) -> None:
    """After a death nobody knows which files are open; a move must not forget that."""
    path = owned.make("one")
    first, second = owned.two_workers()
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        agent("new = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(new, b'never named')")
        agent("old = os.open('old', os.O_RDWR | os.O_CREAT); os.write(old, b'was named')")
        owned.kill(first)
        owned.engine.settle()
        assert not owned.move("one", second), "it stays where a file without a name may be open"
        assert agent("os.close(new)") is None
        eventually(lambda: owned.move("one", second), "a move once it is closed")
        agent("os.unlink('old')")
        owned.engine.checkpoint("one", "without a name", allow_empty=True)
        owned.engine.settle()
        owned.kill(second)
        assert agent("os.pread(old, 20, 0)") == b"was named"
        agent("os.close(old)")


def checkpointed(owned: Owned, message: str) -> str:
    """A checkpoint of the workspace, as soon as the worker that takes it over has done so."""
    made: list[str] = []

    def done() -> bool:
        try:
            made.append(owned.engine.checkpoint("one", message, allow_empty=True).snapshot.id)
        except WorkerGone:
            return False
        return True

    eventually(done, "a checkpoint")
    return made[0]


def test_what_is_open_outlives_deaths_and_checkpoints(owned: Owned) -> None:
    """A checkpoint opens and closes what is open for writing; after a death, that is no last close."""
    path = owned.make("one")
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(path)!r})")
        agent("new = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(new, b'1')")
        agent("import mmap; named = os.open('named', os.O_RDWR | os.O_CREAT); os.write(named, bytes(4096))")
        agent("shared = mmap.mmap(named, 4096); os.close(named)")
        for turn in range(1, 4):
            checkpointed(owned, f"turn {turn}")
            owned.engine.settle()
            owned.kill(owned.worker_of("one"))
            assert agent("os.write(new, b'2')") == 1
            agent(f"shared[0] = {turn}")
            made = checkpointed(owned, "with what was mapped")
            assert b"".join(owned.engine.show(made, b"named"))[0] == turn
            assert agent("os.write(new, b'3')") == 1
        assert agent("os.pread(new, 10, 0)") == b"1232323"
        assert agent("os.link(f'/proc/self/fd/{new}', 'linked', src_dir_fd=os.open('/', os.O_RDONLY))") is None
        agent("os.close(new); shared.close()")
    assert (path / "linked").read_bytes() == b"1232323"
