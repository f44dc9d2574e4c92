"""Freezing a real ext4 filesystem: who writes waits, it ends by request or by itself, and what was copied is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cowfs.errors import Busy, Conflict, Invalid
from cowfs_cli.guests.channel import GuestChannel
from cowfs_guest.freezing import FIFREEZE, FITHAW
from tests.support.guests import Inside, serving
from tests.support.mounting import needs_root

pytestmark = needs_root("mounts an ext4 image")


def mounted(place: Path) -> None:
    """An ext4 filesystem in a file beside ``place``, which is its mount point."""
    image = place.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    try:
        mounted(place)
        yield place
    finally:
        if os.path.ismount(place):
            ioctl(place, FITHAW)
            subprocess.run(["umount", "-l", place], check=True)  # the loop device goes with its last user


def ioctl(place: Path, number: int) -> bool:
    fd = os.open(place, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.ioctl(fd, number, 0)
            return True
        return False
    finally:
        os.close(fd)


@pytest.fixture
def inside(tmp_path: Path, disk: Path) -> Iterator[Inside]:
    with serving(tmp_path, "--root", str(disk)) as made:
        yield made


@pytest.fixture
def guest(inside: Inside) -> Iterator[GuestChannel]:
    with inside.channel() as made:
        yield made


class Writer:
    """A program that writes one file, when it is told to."""

    def __init__(self, path: Path) -> None:
        script = "import sys; sys.stdin.read(1); open(sys.argv[1], 'w').write('x'); print('done')"
        self._program = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.communicate()

    def go(self) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(b"x")
        self._program.stdin.flush()

    def wait_stuck(self) -> None:
        """Wait until it waits for a filesystem that is frozen (uninterruptible)."""
        deadline = time.monotonic() + 30
        turn = threading.Event()
        while Path(f"/proc/{self._program.pid}/stat").read_text().rpartition(")")[2].split()[0] != "D":
            assert time.monotonic() < deadline
            assert self._program.poll() is None, "it has written"
            turn.wait(0.02)

    def wait_done(self) -> None:
        assert self._program.wait(30) == 0


def test_a_freeze_stops_a_writer_and_thaw_lets_it_go_on(disk: Path, guest: GuestChannel) -> None:
    with Writer(disk / "f") as writer:
        with guest.frozen(30):
            assert guest.ping().frozen
            writer.go()
            writer.wait_stuck()
            assert not (disk / "f").exists()
        writer.wait_done()
    assert (disk / "f").read_text() == "x"
    assert not guest.ping().frozen


def test_it_ends_by_itself_and_then_the_copy_is_refused(disk: Path, guest: GuestChannel) -> None:
    with Writer(disk / "f") as writer:
        frozen = guest.frozen(1)
        frozen.__enter__()
        writer.go()
        writer.wait_done()
        with pytest.raises(Conflict, match="thawed when its time was over"):
            frozen.__exit__(None, None, None)
    with pytest.raises(Conflict, match=r"nothing is frozen$"):
        guest.thaw()


def test_a_failure_inside_thaws_and_is_what_is_raised(disk: Path, guest: GuestChannel) -> None:
    with pytest.raises(KeyboardInterrupt), guest.frozen(60):
        raise KeyboardInterrupt
    (disk / "f").write_text("x")


def test_twice_is_refused_and_leaves_the_first_as_it_is(guest: GuestChannel) -> None:
    with guest.frozen(30):
        with pytest.raises(Conflict, match="frozen already"):
            guest.freeze()
        with pytest.raises(Conflict, match="frozen already"), guest.frozen():
            pass
        assert guest.ping().frozen
        for what in (guest.sync, guest.trim, guest.hygiene, lambda: guest.exec(["true"])):
            with pytest.raises(Busy, match="are frozen"):
                what()


def test_what_another_program_froze_stays_frozen(disk: Path, guest: GuestChannel) -> None:
    assert ioctl(disk, FIFREEZE)
    with pytest.raises(Conflict, match="by another program"):
        guest.freeze()
    assert not guest.ping().frozen
    assert ioctl(disk, FITHAW)


def test_times_are_bounded(guest: GuestChannel) -> None:
    for wrong in (0, -1, 61, float("inf"), float("nan")):
        with pytest.raises(Invalid, match="60 at most"):
            guest.freeze(wrong)


def test_a_server_that_ends_thaws(disk: Path, inside: Inside, guest: GuestChannel) -> None:
    guest.freeze(60)
    inside.process.terminate()
    inside.process.wait(30)
    (disk / "f").write_text("x")


def test_what_a_killed_server_left_frozen_can_be_thawed(disk: Path, inside: Inside, guest: GuestChannel) -> None:
    guest.freeze(60)
    inside.again()
    with Writer(disk / "f") as writer:
        writer.go()
        writer.wait_stuck()
        assert patiently(guest) == 0.0
        writer.wait_done()


def patiently(guest: GuestChannel) -> float:
    """Thaw; the server may be just starting."""
    try:
        return guest.thaw()
    except Busy:
        return guest.thaw()


def test_all_roots_or_none(tmp_path: Path, disk: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "served").mkdir()
    with serving(other / "served", "--root", str(disk), "/proc") as inside, inside.channel() as guest:
        with pytest.raises(Invalid, match="/proc cannot be frozen"):
            guest.freeze()
        assert not guest.ping().frozen
        (disk / "f").write_text("x")


def test_a_copy_made_meanwhile_is_whole(disk: Path, guest: GuestChannel, tmp_path: Path) -> None:
    (disk / "f").write_text("content")
    with guest.frozen(30):
        shutil.copy(tmp_path / "disk.img", tmp_path / "copy.img")
    checked = subprocess.run(["e2fsck", "-fn", tmp_path / "copy.img"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    shown = subprocess.run(["debugfs", "-R", "cat f", tmp_path / "copy.img"], capture_output=True, text=True)
    assert shown.stdout == "content"


def test_sync_and_trim(disk: Path, guest: GuestChannel) -> None:
    (disk / "f").write_bytes(os.urandom(8 << 20))
    guest.sync()
    (disk / "f").unlink()
    guest.sync()
    assert guest.trim() >= 8 << 20


def test_what_cannot_be_trimmed_says_why(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--root", "/proc") as inside,
        inside.channel() as guest,
        pytest.raises(Invalid, match="/proc cannot be trimmed"),
    ):
        guest.trim()
