"""``cowfs rm WS:PATH`` and ``cowfs clone``: as ``rm -r`` and ``cp -a`` in the mount, seen by everybody at once."""

from __future__ import annotations

import mmap
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.conformance import calls
from tests.support.mounting import mounts_inside, needs_mounts
from tests.support.treehash import hash_directory

pytestmark = needs_mounts

IN_DELETE, IN_DELETE_SELF, IN_IGNORED = 0x200, 0x400, 0x8000


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "store") as made:
        made.cowfs("create", "ws")
        yield made


@pytest.fixture
def root(live: Live) -> Path:
    return Path(live.cowfs("path", "ws"))


def plant(top: Path) -> None:
    """A tree with some of everything."""
    top.mkdir()
    for number in range(3):
        folder = top / f"d{number}" / "deep" / "deeper"
        folder.mkdir(parents=True)
        for name in range(200):
            (folder / f"f{name}").write_bytes(b"%d" % name * name)
    (top / "big").write_bytes(os.urandom(3 << 20))
    with (top / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
        file.truncate(8 << 20)
    os.symlink("big", top / "link")
    os.link(top / "big", top / "d0" / "other-name")
    os.mkfifo(top / "pipe")
    os.setxattr(top / "big", "user.note", b"hello")
    (top / "d1" / "deep").chmod(0o2750)
    (top / "d0" / "deep" / "deeper" / "f7").chmod(0o4711)
    for path in (top / "big", top / "d2" / "deep", top / "link"):
        os.utime(path, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321), follow_symlinks=False)


def test_a_clone_is_the_same_and_takes_nothing(live: Live, root: Path) -> None:
    plant(root / "a")
    assert not (root / "b").exists()  # the kernel knows now that there is none
    assert list(root.iterdir()) == [root / "a"]
    made = live.json("clone", "ws:a", "b")["count"]
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    assert hash_directory(root / "a") == hash_directory(root / "b")
    assert made == sum(1 for _ in (root / "b").rglob("*")) + 1
    assert (root / "b" / "sparse").stat().st_blocks < 64
    (root / "b" / "big").write_bytes(b"changed")
    assert (root / "b" / "d0" / "other-name").read_bytes() == b"changed"
    assert (root / "a" / "big").stat().st_size == 3 << 20


def test_a_clone_has_what_a_mapping_has_written(live: Live, root: Path) -> None:
    (root / "f").write_bytes(bytes(8192))
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[:3] = b'new'\n"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        ["python3", "-c", code, root / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        program.stdout.readline()
        live.cowfs("clone", "ws:f", "g")
        assert (root / "g").read_bytes()[:3] == b"new"
        program.stdin.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("clone", "ws:none", "b"), 3),
        (("clone", "ws:a", "a"), 4),
        (("clone", "ws:a", "a/inside"), 2),
        (("clone", "ws:a", "none/b"), 3),
        (("clone", "ws:a", "a/.."), 2),
        (("clone", "ws:", "a/b"), 2),
        (("clone", "ws", "b"), 2),
        (("rm", "ws:"), 2),
        (("rm", "ws:none"), 3),
        (("rm", "ws:a/../a"), 3),
        (("rm", "none:a"), 3),
    ],
)
def test_wrong_uses(live: Live, root: Path, words: tuple[str, ...], code: int) -> None:
    (root / "a").mkdir()
    assert live.run(*words).code == code
    assert os.listdir(root) == ["a"]


def test_a_clone_beyond_the_quota_is_refused(live: Live, root: Path) -> None:
    (root / "a").mkdir()
    for number in range(500):
        (root / "a" / str(number)).touch()
    live.cowfs("set", "ws", "quota.inodes=800")
    assert live.run("clone", "ws:a", "b").code == 7
    live.cowfs("rm", "ws:b")
    assert os.listdir(root) == ["a"]


def test_what_is_removed_is_gone_for_everybody(live: Live, root: Path) -> None:
    plant(root / "a")
    (root / "kept").mkdir()
    os.link(root / "a" / "big", root / "kept" / "big")
    names = [path for path in (root / "a").rglob("*") if path.lstat()]  # all of them known to the kernel
    inside = os.open(root / "a" / "d0" / "deep", os.O_RDONLY | os.O_DIRECTORY)
    held = os.open(root / "a" / "d1" / "deep" / "deeper" / "f9", os.O_RDWR)
    mapped = mmap.mmap(held, 9)
    with os.scandir(root) as listing:
        assert sorted(each.name for each in listing) == ["a", "kept"]
    live.cowfs("rm", "ws:a")
    assert os.listdir(root) == ["kept"]
    assert not any(os.path.lexists(path) for path in names)
    assert (root / "kept" / "big").stat().st_nlink == 1
    assert os.listdir(inside) == []
    with pytest.raises(FileNotFoundError):
        os.open("deeper", os.O_RDONLY, dir_fd=inside)
    with pytest.raises(FileNotFoundError):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
    assert (os.pread(held, 9, 0), mapped[:9]) == (b"9" * 9, b"9" * 9)
    assert os.fstat(held).st_nlink == 0
    os.write(held, b"goes on")
    mapped.close()
    os.close(held)
    os.close(inside)
    (root / "a").mkdir()
    (root / "a" / "big").write_text("another")
    assert (root / "a" / "big").read_text() == "another"


def test_a_file_and_a_link_are_removed(live: Live, root: Path) -> None:
    (root / "f").write_text("x")
    os.symlink("f", root / "l")
    live.cowfs("rm", "ws:l", "ws:/f")
    assert os.listdir(root) == []


def test_watchers_are_told(live: Live, root: Path) -> None:
    """Who watches something that goes, as with rm -r. Who watches the directory that it was in is not: the kernel has
    no notification for that."""
    (root / "a" / "d").mkdir(parents=True)
    (root / "a" / "f").touch()
    (root / "a" / "d" / "g").touch()
    with ExitStack() as stack:
        watches = {}
        for place in ("", "a", "a/d", "a/f"):
            watches[place] = calls.watch(os.fsencode(root / place), IN_DELETE | IN_DELETE_SELF)
            stack.callback(os.close, watches[place])
        live.cowfs("rm", "ws:a")
        told = {place: calls.events(watch) for place, watch in watches.items()}
    gone = [(IN_DELETE_SELF, ""), (IN_IGNORED, "")]
    assert told == {"": [], "a": gone, "a/d": gone, "a/f": gone}


def test_files_are_made_meanwhile(live: Live, root: Path) -> None:
    """As with rm -r: what is made in time goes too, else it is busy and can be asked for again."""
    (root / "a").mkdir()
    for number in range(2000):
        (root / "a" / str(number)).touch()
    stop = threading.Event()

    def make() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                (root / "a" / f"new{number}").touch()
            except FileNotFoundError:
                return

    maker = threading.Thread(target=make)
    maker.start()
    try:
        ended = live.run("rm", "ws:a")
    finally:
        stop.set()
        maker.join()
    assert ended.code in (0, 5), ended.err
    if ended.code:
        live.cowfs("rm", "ws:a")
    assert os.listdir(root) == []


@mounts_inside
def test_what_something_is_mounted_in_stays(live: Live, root: Path) -> None:
    (root / "a" / "place").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "cowfs-test", root / "a" / "place"], check=True)
    try:
        refused = live.run("rm", "ws:a")
        assert (refused.code, "a/place" in refused.err) == (5, True)
        assert (root / "a" / "place").is_dir()
    finally:
        subprocess.run(["umount", root / "a" / "place"], check=True)
    live.cowfs("rm", "ws:a")


def test_what_is_not_mounted(live: Live, root: Path) -> None:
    plant(root / "a")
    live.cowfs("umount", "ws")
    live.cowfs("clone", "ws:a", "b")
    live.cowfs("rm", "ws:a")
    assert os.listdir(live.cowfs("path", "ws")) == ["b"]
