"""The command line from end to end on real mounts: the session of the README, then what can go wrong."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cowfs.client import connect
from cowfs.errors import Busy
from tests.cli.live import Live
from tests.support.mounting import needs_mounts
from tests.support.treehash import hash_directory as tree_hash

pytestmark = needs_mounts


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path / "s")
    yield live
    live.end()
    if live.store.exists():
        assert live.cowfs("fsck") == "clean"
        assert live.mounts() == []
        assert "Traceback" not in live.log()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "etc" / "hostname").write_text("box\n")
    (root / "usr" / "bin" / "tool").write_bytes(bytes(range(256)) * 1200)
    (root / "usr" / "bin" / "tool").chmod(0o755)
    (root / "usr" / "bin" / "alias").symlink_to("tool")
    os.link(root / "usr" / "bin" / "tool", root / "usr" / "bin" / "hard")
    os.setxattr(root / "etc", b"user.note", b"\xff\x00")
    return root


@pytest.fixture
def ready(live: Live, rootfs: Path) -> Live:
    """A store with ``rootfs`` imported as ws-1."""
    live.cowfs("init")
    live.cowfs("import", str(rootfs), "ws-1")
    return live


def test_the_session(live: Live, rootfs: Path) -> None:
    before = tree_hash(rootfs)
    del live.env["COWFS_STORE"]
    live.cowfs("init", "--store", str(live.store))
    live.env["COWFS_STORE"] = str(live.store)
    live.cowfs("import", str(rootfs), "ws-1")
    p = Path(live.cowfs("path", "ws-1"))
    assert tree_hash(p) == before
    made = live.cowfs("checkpoint", "ws-1", "-m", "before the edit", "--label", "good")
    subprocess.run(["rm", "-rf", str(p / "usr")], check=True)
    assert not (p / "usr").exists()
    live.cowfs("restore", "ws-1", "@good")
    assert tree_hash(p) == before
    live.cowfs("restore", "ws-1", "--undo")
    assert not (p / "usr").exists()
    live.cowfs("restore", "ws-1", "ws-1@good")
    assert tree_hash(p) == before
    live.cowfs("fork", "ws-1", "ws-2")
    assert live.cowfs("fork", "ws-1@good", "try", "--count", "8").split() == [f"try-{i}" for i in range(1, 9)]
    q = Path(live.cowfs("path", "ws-2"))
    assert tree_hash(q) == before
    (q / "etc" / "hostname").write_text("two\n")
    (q / "usr" / "bin" / "alias").rename(q / "usr" / "bin" / "other")
    (q / "new").write_text("new")
    assert live.json("diff", "ws-1@good", "ws-2") == [
        {"change": "modified", "path": "etc/hostname"},
        {"change": "added", "path": "new"},
        {"change": "renamed", "path": "usr/bin/other", "old_path": "usr/bin/alias"},
    ]
    assert (p / "etc" / "hostname").read_text() == "box\n"
    frozen = Path(live.cowfs("mount", "ws-1@good"))
    assert tree_hash(frozen) == before
    with pytest.raises(OSError, match="Read-only"):
        (frozen / "x").touch()
    assert live.cowfs("show", "ws-1@good:etc/hostname") == "box"
    log = live.json("log", "ws-1")
    assert [each["id"] for each in log if not each["automatic"]] == [made]
    assert log == sorted(log, key=lambda each: each["created_at"], reverse=True)
    listed = {each["name"]: each for each in live.json("list")}
    assert set(listed) == {"ws-1", "ws-2", *(f"try-{i}" for i in range(1, 9))}
    assert (listed["ws-1"]["mounted"], listed["ws-1"]["path"]) == (True, str(p))
    assert listed["try-1"]["head"] == made
    usage = live.json("stat")
    assert usage["logical_bytes"] > usage["stored_bytes"] > 0
    assert {each["name"] for each in usage["workspaces"]} == set(listed)
    status = live.json("daemon", "status")
    assert sorted(name for worker in status["workers"] for name in worker["workspaces"]) == ["ws-1", "ws-2"]
    assert live.cowfs("fsck") == "clean"


def test_a_busy_mount_is_neither_unmounted_nor_stopped_without_force(ready: Live) -> None:
    p = ready.cowfs("path", "ws-1")
    with subprocess.Popen(["cat"], cwd=p, stdin=subprocess.PIPE) as inside:
        for words in (("umount", "ws-1"), ("daemon", "stop"), ("rm", "ws-1")):
            refused = ready.run(*words)
            assert refused.code == 5
            assert f"{inside.pid} (cat)" in refused.err
        assert ready.mounts() == [p]
        assert ready.run("rename", "ws-1", "other").code == 5
        ready.cowfs("umount", "ws-1", "--force")
        assert ready.mounts() == []
    assert ready.cowfs("path", "ws-1") == p
    assert Path(p, "etc/hostname").read_text() == "box\n"


def test_the_mounts_of_snapshots_go_with_their_workspace(ready: Live) -> None:
    p = ready.cowfs("path", "ws-1")
    ready.cowfs("checkpoint", "ws-1", "--label", "a")
    Path(p, "more").touch()
    ready.cowfs("checkpoint", "ws-1", "--label", "b")
    ready.cowfs("fork", "ws-1@a", "other")
    ready.cowfs("checkpoint", "other", "--label", "c", "--allow-empty")
    a, b, other = (ready.cowfs("mount", ref) for ref in ("ws-1@a", "ws-1@b", "other@c"))
    with subprocess.Popen(["cat"], cwd=b, stdin=subprocess.PIPE) as inside:
        refused = ready.run("rm", "ws-1")
        assert refused.code == 5
        assert f"{inside.pid} (cat)" in refused.err
        assert sorted(ready.mounts()) == sorted([p, a, b, other]), "all or none"
    ready.cowfs("rm", "ws-1")
    assert ready.mounts() == [other]
    assert [each["path"] for each in ready.json("mount")] == [other]


def test_a_restart_finds_everything_and_mounts_it_again(ready: Live) -> None:
    p = Path(ready.cowfs("path", "ws-1"))
    (p / "etc" / "hostname").write_text("changed\n")
    ready.cowfs("checkpoint", "ws-1", "--label", "a")
    (p / "unsaved").write_text("live")
    frozen = Path(ready.cowfs("mount", "ws-1@a"))
    before = tree_hash(p)
    assert ready.cowfs("daemon", "stop") == "stopped"
    assert ready.mounts() == []
    assert ready.run("daemon", "status").code == 3
    ready.cowfs("list")
    assert sorted(ready.mounts()) == sorted([str(p), str(frozen)])
    assert tree_hash(p) == before
    assert not (frozen / "unsaved").exists()


class Program:
    """A program with an open file in a workspace: it appends a line and counts all, when told to."""

    SOURCE = """
import sys
with open("open-file", "a+b", buffering=0) as file:
    for line in sys.stdin.buffer:
        file.write(line)
        file.seek(0)
        sys.stdout.buffer.write(b"%d\\n" % len(file.readlines()))
        sys.stdout.buffer.flush()
"""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def write(self) -> int:
        """Append a line; how many there are."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"line\n")
        self.process.stdin.flush()
        assert wait_readable(self.process.stdout.fileno())
        return int(self.process.stdout.readline() or -1)

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture
def program(ready: Live) -> Iterator[Program]:
    program = Program(Path(ready.cowfs("path", "ws-1")))
    assert program.write() == 1
    yield program
    if program.process.poll() is None:
        program.process.kill()
        program.process.communicate()


def kill(pid: int, number: int) -> None:
    """Send a signal and wait for the end of the process."""
    process = os.pidfd_open(pid)
    os.kill(pid, number)
    assert wait_readable(process)
    os.close(process)


def test_programs_outlive_a_killed_supervisor(ready: Live, program: Program) -> None:
    (p,) = ready.mounts()
    made = ready.cowfs("checkpoint", "ws-1", "--label", "a")
    before = ready.json("daemon", "status")
    kill(before["supervisor"]["pid"], signal.SIGKILL)
    assert program.write() == 2
    after = ready.json("daemon", "status")
    assert after["keeper"] == before["keeper"]
    assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
    assert ready.mounts() == [p]
    assert ready.json("list")[0]["head"] == made
    assert [each["path"] for each in ready.json("diff", "ws-1@a", "ws-1")] == ["open-file"]
    ready.cowfs("restore", "ws-1", "@a")
    assert program.write() == 2
    program.end()
    ready.cowfs("umount", "ws-1")


def test_programs_outlive_a_killed_worker(ready: Live, program: Program) -> None:
    (p,) = ready.mounts()
    before = ready.json("daemon", "status")
    kill(before["workers"][0]["pid"], signal.SIGKILL)
    assert program.write() == 2
    ready.cowfs("checkpoint", "ws-1", "--label", "a")
    assert program.write() == 3
    after = ready.json("daemon", "status")
    assert after["supervisor"] == before["supervisor"]
    assert after["workers"][0]["pid"] != before["workers"][0]["pid"]
    assert ready.mounts() == [p]
    assert ready.cowfs("show", "ws-1@a:open-file").splitlines() == ["line"] * 2
    program.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_keeper_that_ends_loses_nothing(ready: Live, number: int) -> None:
    p = Path(ready.cowfs("path", "ws-1"))
    (p / "unsaved").write_text("live")
    made = ready.cowfs("checkpoint", "ws-1", "--label", "a")
    (p / "later").write_text("later")
    before = tree_hash(p)
    supervisor, *_ = ready.pids()
    watched = os.pidfd_open(supervisor)
    kill(ready.json("daemon", "status")["keeper"]["pid"], number)
    assert wait_readable(watched)
    os.close(watched)
    assert ready.mounts() == []
    assert ready.cowfs("path", "ws-1") == str(p)
    assert tree_hash(p) == before
    assert ready.json("list")[0]["head"] == made


def wait_readable(descriptor: int) -> bool:
    import select

    return bool(select.select([descriptor], [], [], 30)[0])


def test_racing_starters_give_one_daemon(live: Live) -> None:
    live.cowfs("init")
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: live.run("list"), range(4)))
    assert [each.code for each in started] == [0] * 4, [each.err for each in started]
    second = live.run("daemon", "run")
    assert second.code == 5
    assert f"keeper {live.json('daemon', 'status')['keeper']['pid']}" in second.err


def test_a_started_daemon_keeps_nothing_of_its_caller(ready: Live, tmp_path: Path) -> None:
    supervisor, worker, *_ = ready.pids()
    for pid in (supervisor, worker):
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        assert "COWFS_STORE" not in Path(f"/proc/{pid}/environ").read_text()
    assert (ready.store / "daemon" / "sock").stat().st_mode & 0o777 == 0o600


def test_a_store_with_a_very_long_path(tmp_path: Path) -> None:
    live = Live(tmp_path / ("x" * 120) / "s")
    live.store.parent.mkdir()
    try:
        live.cowfs("init")
        assert live.json("list") == []
    finally:
        live.end()


def test_a_start_that_fails_says_why(live: Live) -> None:
    live.cowfs("init")
    superblock = live.store / "superblock"
    good = superblock.read_bytes()
    superblock.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    failed = live.run("list")
    assert failed.code == 6
    assert failed.err.startswith("cowfs: superblock")
    assert failed.err.count("\n") == 1
    superblock.write_bytes(good)
    assert live.json("list") == []


def test_fsck_finds_a_flipped_bit(ready: Live) -> None:
    ready.cowfs("daemon", "stop")
    (segment,) = (ready.store / "segments").iterdir()
    good = segment.read_bytes()
    middle = len(good) // 2
    segment.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    for words in (("fsck", "--deep"), ("fsck", "--deep", "--json")):
        found = ready.run(*words)
        assert found.code == 6
        assert "fault" in found.err
    segment.write_bytes(good)


def test_the_python_client(ready: Live) -> None:
    with connect(ready.store) as c:
        ws = c.workspace("ws-1")
        hostname = Path(ws.path, "etc/hostname")
        first = ws.checkpoint("msg", label="good").snapshot
        hostname.write_text("other\n")
        assert [each.path for each in ws.diff("@good")] == [b"etc/hostname"]
        with hostname.open("r+") as still_open:
            restored = ws.restore("@good")
            assert restored.snapshot.id == first.id
            assert [handle.gone for handle in restored.handles if handle.writable] == [False]
            assert still_open.read() == "box\n"
        assert [each.name for each in ws.fork("try", count=3)] == ["try-1", "try-2", "try-3"]
        assert ws.log()[-1].id == first.id
        with open(Path(ws.path, "etc/hostname")), pytest.raises(Busy):
            ws.umount()
        ws.umount()
        assert not ws.info().mounted
