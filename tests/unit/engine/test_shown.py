"""What is written out for read-only mounts, counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from cowfs.usage import Shown


def test_it_is_counted_anew_when_something_came(tmp_path: Path) -> None:
    folder = tmp_path / "shown" / "boot"
    shown = Shown(folder.parent)
    assert shown.size_bytes() == 0
    folder.mkdir(parents=True)
    for number in range(1, 4):
        (folder / str(number)).write_bytes(bytes(4096))
        assert shown.size_bytes() == sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_what_came_within_a_tick_of_the_clock_is_counted_later(tmp_path: Path) -> None:
    folder = tmp_path / "shown" / "boot"
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(bytes(8192))
    shown, changed = Shown(folder.parent), folder.stat()
    first = shown.size_bytes()
    (folder / "two").write_bytes(bytes(8192))
    os.utime(folder, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert shown.size_bytes() > first


def test_who_asks_meanwhile_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, go_on, scandir = Event(), Event(), os.scandir

    def slow(path: Path) -> Iterator[os.DirEntry[str]]:
        counting.set()
        assert go_on.wait(30)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    shown = Shown(tmp_path)
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(shown.size_bytes)
        try:
            assert counting.wait(30)
            assert shown.size_bytes() == 0
        finally:
            go_on.set()
        assert asked.result() == 0
