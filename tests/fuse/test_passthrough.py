"""Read-only mounts: the kernel reads files by itself, from one place for all mounts."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.client import connect
from tests.cli.live import Live, living
from tests.support.mounting import needs_root

pytestmark = needs_root("passthrough needs CAP_SYS_ADMIN")

SIZES = {"small": 5, "page": 4096, "odd": 70_001, "large": 3 << 20, "empty": 0}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "store") as made:
        made.cowfs("create", "ws")
        root = Path(made.cowfs("path", "ws"))
        for name, size in SIZES.items():
            (root / name).write_bytes(random.Random(size).randbytes(size))
        with (root / "sparse").open("wb") as file:
            file.truncate(1 << 20)
        made.cowfs("checkpoint", "ws", "--label", "one")
        (root / "small").write_bytes(b"other")
        made.cowfs("checkpoint", "ws", "--label", "two")
        client = connect(made.store)
        while client.daemon()["queues"]["settle"]:
            pass
        client.close()
        made.cowfs("daemon", "stop")
        made.cowfs("daemon", "start", "--workers", "1")
        yield made


def shown(live: Live) -> list[Path]:
    """The files that are written out."""
    return sorted(path for path in (live.store / "shown").glob("*/*") if len(path.name) == 64)


def content(name: str) -> bytes:
    return random.Random(SIZES[name]).randbytes(SIZES[name])


def test_every_file_reads_right_and_is_written_out_once(live: Live) -> None:
    one, two = (Path(live.cowfs("mount", f"ws@{label}")) for label in ("one", "two"))
    for name in SIZES:
        assert (one / name).read_bytes() == content(name)
        assert (two / name).read_bytes() == (b"other" if name == "small" else content(name))
    assert (one / "sparse").read_bytes() == bytes(1 << 20)
    assert len(shown(live)) == len(SIZES) + 1
    with (one / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[1 << 20 : (1 << 20) + 9] == content("large")[1 << 20 : (1 << 20) + 9]
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
    with pytest.raises(OSError, match="Read-only"):
        (one / "small").write_bytes(b"x")


def test_what_is_written_out_is_counted(live: Live) -> None:
    assert live.json("daemon", "status")["cache"]["files"] == {"hits": 0, "misses": 0, "bytes": 0}
    for label in ("one", "two", "one"):
        (Path(live.cowfs("mount", f"ws@{label}")) / "large").read_bytes()
    files = live.json("daemon", "status")["cache"]["files"]
    assert (files["hits"], files["misses"]) == (2, 1)
    assert SIZES["large"] <= files["bytes"] < SIZES["large"] + (1 << 18)
    assert live.json("stat")["shown_bytes"] == files["bytes"]
    for line in ("shown    3.", "cache       files: 66.7 % of 3 found, 3."):
        assert line in live.cowfs("stat") + live.cowfs("daemon", "status")


def test_both_mounts_share_the_page_cache(live: Live) -> None:
    """The pages that one mount has read are there for the other."""
    one, two = (Path(live.cowfs("mount", f"ws@{label}")) for label in ("one", "two"))
    (one / "large").read_bytes()
    (path,) = (path for path in shown(live) if path.stat().st_size == SIZES["large"])
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(1 << 20)
        with pytest.raises(BlockingIOError):
            os.preadv(file.fileno(), [buffer], 1 << 20, os.RWF_NOWAIT)
        (one / "large").read_bytes()
        assert os.preadv(file.fileno(), [buffer], 1 << 20, os.RWF_NOWAIT) == 1 << 20  # without asking the disk
        assert (two / "large").read_bytes()[1 << 20 : 2 << 20] == buffer


def test_a_program_goes_on_when_workers_die(live: Live) -> None:
    """What is open through the kernel can be opened again through the successor, and the other way round."""
    one = Path(live.cowfs("mount", "ws@one"))
    client = connect(live.store)
    with (one / "large").open("rb") as held:
        assert held.read(10) == content("large")[:10]
        for _ in range(2):
            (worker,) = client.daemon()["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            with (one / "large").open("rb") as again, (one / "odd").open("rb") as other:
                assert again.read() == content("large")
                assert other.read() == content("odd")
                assert (one / "odd").read_bytes() == content("odd")
            held.seek(1 << 20)
            assert held.read(10) == content("large")[1 << 20 : (1 << 20) + 10]
    assert (one / "large").read_bytes() == content("large")
    client.close()


def test_a_supervisor_that_dies(live: Live) -> None:
    one = Path(live.cowfs("mount", "ws@one"))
    with (one / "page").open("rb") as held:
        held.read(1)
        os.kill(live.pids()[0], signal.SIGKILL)
        with (one / "page").open("rb") as again:
            assert again.read() == content("page")
        assert held.read() == content("page")[1:]
    live.cowfs("list")  # its successor answers


def test_a_snapshot_that_is_not_settled_is_read_all_the_same(live: Live) -> None:
    root = Path(live.cowfs("path", "ws"))
    (root / "new").write_bytes(b"new")
    live.cowfs("checkpoint", "ws", "--label", "three")
    three = Path(live.cowfs("mount", "ws@three"))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((three / name).open("rb")) for name in ("new", "large", "new")]
        assert [file.read() for file in files] == [b"new", content("large"), b"new"]


def test_what_is_damaged_says_so(live: Live) -> None:
    one = Path(live.cowfs("mount", "ws@one"))
    (one / "page").read_bytes()
    live.cowfs("daemon", "stop")
    for path in (live.store / "segments").iterdir():
        data = bytearray(path.read_bytes())
        at = data.find(content("odd")[1000:1100])
        if at >= 0:
            data[at] ^= 1
            path.write_bytes(data)
    one = Path(live.cowfs("path", "ws")).parent / one.name
    one = Path(live.cowfs("mount", "ws@one"))
    with pytest.raises(OSError, match="Input/output"):
        (one / "odd").read_bytes()
    assert (one / "large").read_bytes() == content("large")
    live.cowfs("daemon", "stop")
    for path in (live.store / "segments").iterdir():
        data = bytearray(path.read_bytes())
        wanted = bytearray(content("odd")[1000:1100])
        wanted[0] ^= 1
        at = data.find(wanted)
        if at >= 0:
            data[at] ^= 1
            path.write_bytes(data)
