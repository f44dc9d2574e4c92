"""File names through a mount and through import: impossible ones, and thousands that somebody made to collide."""

import errno
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from cowfs.errors import NoSpace
from cowfs.geometry import Geometry
from cowfs.view.inode import Caller
from tests.hostile.collisions import key_names, same_key, xxh64_names
from tests.support.live import Live, live_store
from tests.support.mounting import needs_mounts
from tests.support.treehash import hash_directory

pytestmark = needs_mounts

MANY, FEW = 20_000, 4_000
NARROW = Geometry(key_bits=8)
LIMIT = 256
"""Entries with one directory key at most."""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with live_store(tmp_path) as live:
        live.engine.create("ws")
        yield live


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Live]:
    with live_store(tmp_path, NARROW) as live:
        live.engine.create("ws")
        yield live


def cpu_us(work: Callable[[bytes], object], names: list[bytes]) -> float:
    """Microseconds of processor time for each name, of this process: of both the caller and the server."""
    began = time.process_time()
    for name in names:
        work(name)
    return (time.process_time() - began) / len(names) * 1e6


def test_names_that_collide_under_xxh64_cost_what_others_cost(live: Live) -> None:
    names = xxh64_names(MANY)
    assert len({xxhash.xxh64_intdigest(name) for name in names}) == 1
    top = live.mount("ws")
    costs = {}
    for folder, chosen in ((b"plain", [b"%064d" % number for number in range(FEW)]), (b"hostile", names)):
        path = os.fsencode(top) + b"/" + folder
        os.mkdir(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            create = cpu_us(lambda name, fd=fd: os.mknod(name, dir_fd=fd), chosen)  # type: ignore[misc]
            assert sorted(os.fsencode(name) for name in os.listdir(fd)) == sorted(chosen)
            look = cpu_us(lambda name, fd=fd: os.stat(name, dir_fd=fd), chosen)  # type: ignore[misc]
        finally:
            os.close(fd)
        costs[folder] = (create, look)
    assert all(bad < 3 * good for bad, good in zip(costs[b"hostile"], costs[b"plain"], strict=True)), costs
    live.engine.checkpoint("ws", "all of them")
    live.engine.settle()
    removed = dict.fromkeys(costs, 0.0)
    for folder, chosen in ((b"plain", [b"%064d" % number for number in range(FEW)]), (b"hostile", names[:FEW])):
        path = os.fsencode(top) + b"/" + folder + b"/"
        removed[folder] = cpu_us(lambda name, path=path: os.unlink(path + name), chosen)  # type: ignore[misc]
    assert removed[b"hostile"] < 3 * removed[b"plain"], removed
    assert len(os.listdir(path)) == MANY - FEW


def test_names_with_one_key_up_to_the_limit_and_one_past_it(narrow: Live) -> None:
    top = narrow.mount("ws")
    *names, extra, second = (os.fsdecode(name) for name in same_key(8, LIMIT + 2))
    for name in names:
        (top / name).write_text(name)
    (top / "elsewhere").mkdir()
    (top / "elsewhere" / extra).write_text("from elsewhere")
    makers: list[Callable[[Path], object]] = [
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("target"),
        lambda path: os.link(top / names[0], path),
        lambda path: os.mkfifo(path),
        lambda path: os.rename(top / "elsewhere" / extra, path),
    ]
    before = hash_directory(top)
    for make in makers:
        with pytest.raises(OSError) as full:
            make(top / extra)
        assert full.value.errno == errno.ENOSPC
    assert hash_directory(top).digests == before.digests
    assert sorted(os.listdir(top)) == sorted([*names, "elsewhere"])
    other_key = next(name for name in key_names(8, 6))
    (top / os.fsdecode(other_key)).write_text("still room")
    (top / names[7]).unlink()
    os.rename(top / "elsewhere" / extra, top / extra)
    with pytest.raises(OSError, match="No space left"):
        (top / second).touch()
    with pytest.raises(OSError, match="No space left"):  # the new name comes before the old one goes
        os.rename(top / extra, top / second)
    made = narrow.engine.checkpoint("ws", "full").snapshot.id
    narrow.engine.settle()
    full_tree = hash_directory(top)
    subprocess.run(["rm", "-rf", *(str(top / name) for name in os.listdir(top))], check=True)
    for raw in itertools.islice(key_names(8, 9), 5):
        (top / os.fsdecode(raw)).touch()
    narrow.engine.restore("ws", made)
    assert hash_directory(top).digests == full_tree.digests
    assert (top / extra).read_text() == "from elsewhere"


def test_import_of_names_with_one_key(narrow: Live, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    *names, extra = (os.fsdecode(name) for name in same_key(8, LIMIT + 1))
    for name in names:
        (source / name).write_text(name)
    narrow.engine.import_tree(os.fsencode(source), "fits", [], lambda _: None)
    assert hash_directory(narrow.mount("fits")).digests == hash_directory(source).digests
    (source / extra).touch()
    with pytest.raises(NoSpace, match="more than 256 names"):
        narrow.engine.import_tree(os.fsencode(source), "overflows", [], lambda _: None)
    assert [each.name for each in narrow.engine.list()] == ["fits", "ws"]


def test_impossible_names(live: Live) -> None:
    top = live.mount("ws")
    longest = "n" * 255
    (top / longest).write_text("fits")
    with pytest.raises(OSError) as long:
        (top / (longest + "n")).touch()
    assert long.value.errno == errno.ENAMETOOLONG
    wide = "ü" * 127 + "n"  # 255 bytes
    (top / wide).touch()
    with pytest.raises(OSError) as long:
        (top / ("ü" * 128)).touch()
    assert long.value.errno == errno.ENAMETOOLONG
    for name, code in ((".", errno.EEXIST), ("..", errno.EEXIST), (longest + "/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as refused:
            os.mkdir(f"{top}/{name}")
        assert refused.value.errno == code
    odd = [b"\xff\xfe", b"-rf", b"new\nline", b"\x1b[31m", b" ", b"...", b"\\", b"\xe2\x80\xae", b"snap-1@x:y"]
    for raw in odd:
        os.close(os.open(os.fsencode(top) + b"/" + raw, os.O_CREAT | os.O_WRONLY))
    expected = {*odd, longest.encode(), wide.encode()}
    assert set(os.listdir(os.fsencode(top))) == expected
    live.engine.checkpoint("ws", "odd", label="odd")
    live.engine.settle()
    before = hash_directory(top)
    for raw in expected:
        os.unlink(os.fsencode(top) + b"/" + raw)
    live.engine.restore("ws", "ws@odd")
    assert hash_directory(top).digests == before.digests
    assert b"".join(live.engine.show("ws@odd", longest.encode())) == b"fits"


def test_impossible_names_in_the_view(live: Live) -> None:
    """What no kernel sends, since another transport may not check."""
    workspace = live.workspace("ws")
    caller = Caller(0, 0, 1, 0, 3, 4)
    for name, code in (
        (b"", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
        (b"n" * 256, errno.ENAMETOOLONG),
        (b".", errno.EEXIST),
        (b"..", errno.EEXIST),
    ):
        with workspace.lock, pytest.raises(OSError) as refused:
            workspace.view.mkdir(1, name, 0o755, caller)
        assert refused.value.errno == code, name
        with workspace.lock, pytest.raises(OSError) as refused:
            workspace.view.mknod(1, name, 0o100644, 0, caller)
        assert refused.value.errno == code, name
