"""A store whose disk is full: clear errors, nothing acknowledged is lost, and all goes on once there is space."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts

NO_SPACE = 7


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small filesystem of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(40 << 20)
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4 on this machine")
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        words = ["mount", "-o", "loop", str(image), str(place)]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount {request.param} here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def live(disk: Path) -> Iterator[Live]:
    """A store on the small disk, with its daemon."""
    live = Live(disk / "store")
    yield live
    log = live.log()
    live.end()
    assert "Traceback" not in log, log


def fill(file: Path) -> None:
    """Take every byte that is left on a file's disk."""
    fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for size in (1 << 20, 1 << 16, 4096, 1):
            while not refused(lambda size=size: os.write(fd, bytes(size))):  # type: ignore[misc]
                pass
    finally:
        os.close(fd)


def refused(call: Callable[[], object]) -> bool:
    """Whether a call fails because of the full disk."""
    try:
        call()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return True
        raise
    return False


def test_a_full_disk(live: Live, disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(10):
        (source / f"file{number}").write_bytes(os.urandom(30_000))
    live.cowfs("init")
    live.cowfs("import", str(source), "ws")
    live.cowfs("create", "spare")
    top = Path(live.cowfs("path", "ws"))
    (top / "acknowledged").write_bytes(b"a" * 50_000)
    made = live.cowfs("checkpoint", "ws", "--label", "good")
    (top / "live").write_bytes(b"l" * 5_000)
    fill(disk / "ballast")
    written: list[str] = []
    while not refused(lambda: (top / f"more{len(written)}").write_bytes(b"m" * 100)):
        written.append(f"more{len(written)}")
    changes: list[Callable[[], object]] = [
        lambda: (top / "file1").write_bytes(os.urandom(200_000)),
        lambda: (top / "directory").mkdir(),
        lambda: (top / "file3").rename(top / "moved"),
        lambda: os.truncate(top / "file4", 0),
        lambda: os.link(top / "file5", top / "link"),
        lambda: os.setxattr(top / "file6", "user.x", b"y" * 500),
        lambda: (top / "file7").unlink(),
    ]
    assert sum(map(refused, changes)) > 0
    assert all((top / name).read_bytes() == b"m" * 100 for name in written)
    reading = [("list",), ("log", "ws"), ("show", "ws@good:acknowledged"), ("stat",), ("fsck",), ("tree",), ("mount",)]
    assert [live.run(*words).code for words in reading] == [0] * len(reading)
    writing = [
        ("checkpoint", "ws", "-m", "m" * 9000), ("restore", "ws", "@good"), ("fork", "ws", "fork"), ("create", "new"),
        ("import", str(source), "again"), ("set", "ws@good", "--label", "l" * 255), ("rename", "spare", "s" * 255),
    ]  # fmt: skip
    ended = [live.run(*words) for words in writing]
    assert {each.code for each in ended} <= {0, NO_SPACE}
    assert [each.code for each in ended[:3]] == [0, 0, 0], "checkpoint, restore and fork have a reserve"
    lines = [each.err for each in ended if each.code]
    assert [line for line in lines if "no space left" not in line or line.count("\n") != 1] == []
    assert Path(live.cowfs("path", "ws@good")).is_dir()
    stopped = live.run("daemon", "stop")
    assert stopped.code == 0, stopped
    # Not even a start may lose anything, whether it succeeds or not.
    assert live.run("list").code in (0, NO_SPACE)
    (disk / "ballast").unlink()
    top = Path(live.cowfs("path", "ws"))
    assert live.run("checkpoint", "ws", "-m", "freed").code == 0
    live.cowfs("restore", "ws", made)
    assert (top / "acknowledged").read_bytes() == b"a" * 50_000
    assert not (top / "live").exists()
    live.cowfs("import", str(source), "again-later")
    live.cowfs("fork", "ws", "fork-later")
    live.cowfs("rm", live.json("list")[0]["name"], "--force")
    (top / "after").write_bytes(os.urandom(100_000))
    assert live.cowfs("fsck", "--deep") == "clean"


OPEN_INDEX = """
import sys
from pathlib import Path
from cowfs.blocks.index import BlockIndex
try:
    BlockIndex(Path(sys.argv[1]), writable=True)
except Exception as error:
    print(type(error).__name__)
"""


def test_an_index_is_opened_on_a_full_disk(disk: Path) -> None:
    """LMDB maps a sparse file for its readers: touching that on a full disk is a SIGBUS."""
    index = disk / "index"
    index.mkdir()
    fill(disk / "ballast")
    made = subprocess.run([sys.executable, "-c", OPEN_INDEX, str(index)], capture_output=True, text=True)
    assert (made.returncode, made.stdout.strip() in ("OSError", "NoSpace")) == (0, True), made


def test_a_store_that_fits_nowhere(disk: Path) -> None:
    fill(disk / "ballast")
    live = Live(disk / "store")
    ended = live.run("init")
    assert (ended.code, ended.err.count("\n")) == (NO_SPACE, 1), ended
    (disk / "ballast").unlink()
    if live.store.exists():
        assert list(live.store.iterdir()) == []
    live.cowfs("init")
