"""One workspace in the foreground through pyfuse3: files as on the kernel transport, verbs through its own API."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs_daemon.fuse import mount
from tests.support.foreground import Foreground
from tests.support.mounting import as_others, mounts_inside
from tests.support.treehash import hash_directory

pytestmark = [pytest.mark.fuse]


def test_the_verbs(foreground: Foreground, top: Path) -> None:
    live = foreground.live
    (top / "etc").mkdir()
    (top / "etc/hostname").write_text("first\n")
    live.cowfs("checkpoint", "ws", "-m", "one", "--label", "one")
    before = hash_directory(top)
    (top / "etc/hostname").write_text("second, and longer\n")
    (top / "new").mkdir()
    os.rename(top / "etc", top / "moved")
    live.cowfs("restore", "ws", "@one")
    assert hash_directory(top) == before
    assert (top / "etc/hostname").read_text() == "first\n"
    live.cowfs("restore", "ws", "--undo")
    assert (top / "moved/hostname").read_text() == "second, and longer\n"
    live.cowfs("fork", "ws@one", "other")
    assert [each["name"] for each in live.json("list")] == ["other", "ws"]
    assert live.cowfs("show", "ws@one:etc/hostname") == "first"
    assert live.json("mount") == [{"ref": "ws", "path": str(top), "read_only": False}]
    assert live.run("mount", "other").code == 4
    assert live.run("rm", "ws").code == 4
    live.cowfs("rm", "other")
    live.cowfs("daemon", "stop")
    assert foreground.process is not None
    assert foreground.process.wait(20) == 0
    assert str(top) not in [shown.path for shown in mount.mount_table()]


@as_others
def test_all_kinds_of_files_outlive_it(foreground: Foreground, top: Path) -> None:
    (top / "d").mkdir(0o750)
    (top / "d/f").write_bytes(os.urandom(300_000))
    os.link(top / "d/f", top / "hard")
    os.symlink("d/f", top / "soft")
    os.mkfifo(top / "pipe", 0o640)
    os.setxattr(top / "d/f", "user.x", b"value")
    os.chown(top / "d", 7, 8)
    os.utime(top / "d", ns=(1, 1_234_567_890_123_456_789))
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 20)
        file.write(b"x")
    before = hash_directory(top)
    assert sorted(os.listdir(top)) == ["d", "hard", "pipe", "soft", "sparse"]
    assert (top / "sparse").stat().st_blocks == 8
    assert foreground.end() == 0
    foreground.start()
    assert hash_directory(top) == before


def test_what_was_answered_is_there_after_a_kill(foreground: Foreground, top: Path) -> None:
    for number in range(50):
        (top / f"f{number}").write_bytes(b"%d" % number)
    assert foreground.end(signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(OSError) as caught:
        os.listdir(top)
    assert caught.value.errno == errno.ENOTCONN
    foreground.start()
    assert [(top / f"f{number}").read_bytes() for number in range(50)] == [b"%d" % number for number in range(50)]


@mounts_inside
def test_a_restore_that_it_cannot_do_is_refused(foreground: Foreground, top: Path) -> None:
    live = foreground.live
    (top / "f").write_text("first")
    (top / "place").mkdir()
    live.cowfs("checkpoint", "ws", "-m", "one", "--label", "one")
    (top / "f").write_text("second")
    with (top / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:1] = b"S"
        refused = live.run("restore", "ws", "@one")
        assert (refused.code, "open for writing" in refused.err) == (5, True), refused
        assert (top / "f").read_text() == "Second"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(top / "place")], check=True)
    try:
        refused = live.run("restore", "ws", "@one")
        assert (refused.code, "mounted at place" in refused.err) == (5, True), refused
    finally:
        subprocess.run(["umount", str(top / "place")], check=True)
    live.cowfs("restore", "ws", "@one")
    assert (top / "f").read_text() == "first"


def test_what_mappings_dirtied_is_in_a_checkpoint(foreground: Foreground, top: Path) -> None:
    (top / "f").write_bytes(bytes(8192))
    with (top / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[4096:4100] = b"page"
        foreground.live.cowfs("checkpoint", "ws", "-m", "mapped", "--label", "mapped")
        mapped[4096:4100] = b"more"
    shown = foreground.live.run("show", "ws@mapped:f")
    assert shown.out.encode()[4096:4100] == b"page"


READERS = """if True:
    import json, os, select, sys
    top = sys.argv[1]
    held = open(top + "/f", "rb", buffering=0)
    print("ready", flush=True)
    while select.select([0], [], [], 0)[0] == []:
        os.stat(top + "/f"), os.listdir(top), os.pread(held.fileno(), 100, 0)
    sys.stdin.readline()
    with open(top + "/f", "ab", buffering=0) as file:
        file.write(b"+")
    print(json.dumps([os.pread(held.fileno(), 100, 0).decode(), sorted(os.listdir(top))]), flush=True)
"""


def test_readers_see_nothing_old_after_restores(foreground: Foreground, top: Path) -> None:
    live = foreground.live
    contents = ["one", "two, which is longer", "3"]
    for number, content in enumerate(contents):
        for path in top.iterdir():
            path.unlink() if path.name != "f" else None
        (top / "f").write_text(content)
        (top / f"only-{number}").touch()
        live.cowfs("checkpoint", "ws", "-m", "m", "--label", f"s{number}")
    for turn in range(6):
        which = turn % 3
        program = subprocess.Popen(
            [sys.executable, "-c", READERS, str(top)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        live.cowfs("restore", "ws", f"@s{which}", "--discard")
        out, _ = program.communicate("go\n", timeout=20)
        assert json.loads(out) == [contents[which] + "+", ["f", f"only-{which}"]]


def test_writers_that_come_during_a_restore_write_to_the_restored_state(foreground: Foreground, top: Path) -> None:
    """They wait for the swap; none is refused, and none writes to what goes; and each restore finds the moment when the
    file is closed, though it is open nearly always."""
    live = foreground.live
    (top / "f").write_text("x")
    for number in range(200):
        (top / f"n{number}").write_text(str(number))
    live.cowfs("checkpoint", "ws", "-m", "m", "--label", "base")
    stop, wrong = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            try:
                with open(top / "f", "ab", buffering=0) as file:
                    assert file.write(b"y") == 1
            except OSError as error:
                wrong.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            live.cowfs("restore", "ws", "@base", "--discard")
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    text = (top / "f").read_text()
    assert text == "x" + "y" * (len(text) - 1)


def test_times_out_of_range_are_clamped(top: Path) -> None:
    (top / "f").touch()
    os.utime(top / "f", (10**12, -(10**12)))
    assert ((top / "f").stat().st_atime_ns, (top / "f").stat().st_mtime_ns) == ((1 << 63) - 1, -(1 << 63))


def test_xattr_flags(top: Path) -> None:
    (top / "f").touch()
    assert outcome(lambda: os.setxattr(top / "f", "user.a", b"1", os.XATTR_REPLACE)) == "ENODATA"
    os.setxattr(top / "f", "user.a", b"1", os.XATTR_CREATE)
    assert outcome(lambda: os.setxattr(top / "f", "user.a", b"2", os.XATTR_CREATE)) == "EEXIST"
    assert os.getxattr(top / "f", "user.a") == b"1"
    assert outcome(lambda: os.setxattr(top / "f", "system.x", b"2")) == "ENOTSUP"


@as_others
def test_set_id_bits_and_permissions(foreground: Foreground, top: Path) -> None:
    os.chmod(top, 0o777)
    (top / "f").write_bytes(b"x")
    (top / "f").chmod(0o6777)
    (top / "secret").write_bytes(b"x")
    (top / "secret").chmod(0o600)
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        os.setgid(1000), os.setuid(1000)
        open("f", "a").write("y")
        try:
            open("secret")
        except PermissionError:
            sys.exit(0)
        sys.exit("allowed")
    """
    subprocess.run([sys.executable, "-c", code, str(top)], check=True, timeout=20)
    assert stat.S_IMODE((top / "f").stat().st_mode) == 0o777


def test_git_and_tar(foreground: Foreground, top: Path, tmp_path: Path) -> None:
    script = """set -eu
        git -c init.defaultBranch=main -c gc.auto=0 init -q repo; cd repo
        for i in $(seq 60); do mkdir -p d$((i % 7)); echo "file $i" > d$((i % 7))/f$i; done
        git add .; git -c user.name=a -c user.email=a@example.org -c gc.auto=0 commit -qm first
        git status --porcelain; tar cf ../tree.tar d1 d2; mkdir out; tar xf ../tree.tar -C out; diff -r d1 out/d1
        rm -rf d3; git status --porcelain | sort | head -3
    """
    outputs = []
    for place in (top, tmp_path):
        done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=60, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("mount", "nobody", "{path}", "--foreground"), 3),
        (("mount", "ws", "{full}", "--foreground"), 4),
        (("mount", "ws", "--foreground"), 2),
        (("mount", "ws", "{path}"), 2),
        (("mount", "ws", "{path}", "--foreground", "--transport", "kernel"), 2),
    ],
)
def test_wrong_uses(foreground: Foreground, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/f").touch()
    places = {"path": tmp_path / "p", "full": tmp_path / "full"}
    ended = foreground.live.run(*(word.format(**places) for word in words))
    assert (ended.code, ended.err.count("\n")) == (code, 1), ended
    foreground.live.run("daemon", "stop")


def test_a_store_that_a_daemon_serves(foreground: Foreground, tmp_path: Path) -> None:
    foreground.live.cowfs("daemon", "start")
    ended = foreground.live.run("mount", "ws", str(tmp_path / "p"), "--foreground")
    assert (ended.code, ended.err.count("\n")) == (5, 1), ended
    foreground.live.cowfs("daemon", "stop")


def outcome(call: Callable[[], object]) -> object:
    """What a call gives, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_what_pyfuse3_cannot_do(top: Path) -> None:
    """The table of docs/pyfuse3.md, so far as it can be seen from outside."""
    with (top / "f").open("w+b") as file:
        file.truncate(1 << 20)
        fd = file.fileno()
        (top / "g").write_bytes(b"x" * 5000)
        libc = ctypes.CDLL(None, use_errno=True)
        punched = libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096))
        assert (punched, errno.errorcode[ctypes.get_errno()]) == (-1, "ENOTSUP")
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 1 << 20
        with (top / "g").open("rb") as source:
            assert os.copy_file_range(source.fileno(), fd, 5000, 0, 0) == 5000
        assert os.pread(fd, 5000, 0) == b"x" * 5000
        assert outcome(lambda: os.open(top, os.O_TMPFILE | os.O_RDWR)) == "ENOTSUP"
    for flags, code in ((1, "EEXIST"), (2, None)):
        (top / "a").write_bytes(b"a")
        (top / "b").write_bytes(b"b")
        done = libc.renameat2(-100, os.fsencode(top / "a"), -100, os.fsencode(top / "b"), flags)
        assert (errno.errorcode[ctypes.get_errno()] if done else None) == code
    assert (top / "a").read_bytes() == b"b"
