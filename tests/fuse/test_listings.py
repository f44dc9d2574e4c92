"""Listings of directories that change meanwhile: nothing that was there all the time is missing or comes twice.

The kernel keeps listings, and fills what it keeps from any open directory that may; see ``names.opendir``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Busy
from cowfs.geometry import ROOT_INO
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.dispatch import Handler, Reply
from cowfs_daemon.fuse.server import Server
from cowfs_daemon.fuse.transport import Transport
from tests.support.listings import PROGRAM

from .agent import Agent
from .conftest import Mounted, wait_until, wrap_handler

NAMES = [f"name-{i:05d}-{'x' * 20}" for i in range(3000)]
"""Some ten requests for the whole of them."""


def fill(directory: Path, names: list[str]) -> None:
    directory.mkdir()
    for name in names:
        (directory / name).touch()


def listed(agent: Agent, code: str) -> list[str]:
    """The sorted names that an expression in the program gives."""
    return agent(f"sorted({code})")  # type: ignore[no-any-return]


def test_a_listing_has_what_was_there_when_it_began(mounted: Mounted) -> None:
    fill(mounted.path / "d", NAMES)
    new, gone = [f"new-{i}" for i in range(300)], NAMES[::10]
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(mounted.path)!r})")
        agent("first = os.scandir('d'); before = [next(first).name for _ in range(2000)]")
        agent(f"[os.close(os.open('d/' + name, os.O_CREAT)) for name in {new!r}]")
        agent(f"[os.unlink('d/' + name) for name in {gone!r}]")
        agent("second = os.scandir('d'); names = [next(second).name]")
        agent("before += [entry.name for entry in first]")
        agent("names += [entry.name for entry in second]")
        assert listed(agent, "names") == sorted({*NAMES, *new} - {*gone})
        stayed = set(NAMES) - set(gone)
        assert sorted(stayed & set(agent("before"))) == sorted(stayed)
        assert agent("len(before) == len(set(before))")
        assert listed(agent, "os.listdir('d')") == sorted({*NAMES, *new} - {*gone})


def test_one_listing_after_another_is_kept_by_the_kernel(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(mounted.path / "d", NAMES)
    asked: list[int] = []

    def count(handler: Handler, *arguments: Any) -> Reply:
        asked.append(arguments[-1])
        return handler(*arguments)

    for opcode in (protocol.READDIR, protocol.READDIRPLUS):
        wrap_handler(monkeypatch, opcode, count)
    with Agent() as agent:
        agent(f"os.chdir({os.fspath(mounted.path)!r})")
        assert listed(agent, "os.listdir('d')") == NAMES
        assert asked
        asked.clear()
        for _ in range(3):
            assert listed(agent, "os.listdir('d')") == NAMES
        assert not asked
        (mounted.path / "d" / NAMES[0]).unlink()
        assert listed(agent, "os.listdir('d')") == NAMES[1:]


def allowed(mounted: Mounted) -> set[int]:
    """The directories of which an open descriptor may use the kernel's cache of the listing."""
    listings = mounted.transport.session.served.listings
    assert listings is not None
    return set(listings)


def closed(mounted: Mounted) -> int:
    """How many open directories were closed."""
    return mounted.transport.session.counts.requests[protocol.RELEASEDIR]


def test_a_successor_s_own_descriptor_takes_no_listing_from_a_program(server: Server, mounted: Mounted) -> None:
    with Agent() as agent:
        agent(f"held = os.open({os.fspath(mounted.path)!r}, os.O_RDONLY)")
        assert allowed(mounted) == {ROOT_INO}
        connection = mounted.transport.detach()
        handed = mounted.transport.session.served.handed()
        mounted.transport = Transport(server, connection, mounted.workspace, complete=False)
        mounted.transport.session.served.hand_over(handed)
        mounted.transport.start()
        assert allowed(mounted) == {ROOT_INO}
        agent("os.close(held)")
        wait_until(lambda: not allowed(mounted))
        agent(f"held = os.open({os.fspath(mounted.path)!r}, os.O_RDONLY)")
        assert allowed(mounted) == {ROOT_INO}


def test_an_unmount_that_fails_takes_no_listing_from_a_program(mounted: Mounted) -> None:
    with Agent() as agent:
        agent(f"held = os.open({os.fspath(mounted.path)!r}, os.O_RDONLY)")
        assert allowed(mounted) == {ROOT_INO}
        before = closed(mounted)
        with pytest.raises(Busy):
            mounted.transport.unmount()
        wait_until(lambda: closed(mounted) == before + 1)
        assert allowed(mounted) == {ROOT_INO}


def test_listings_while_names_come_and_go(mounted: Mounted) -> None:
    """Listings, slow ones, ``rm -rf`` of large directories, makers and removers at once; see PROGRAM."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(mounted.path), "3", "1"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
