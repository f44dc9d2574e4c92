"""Plays the cases on a native directory and on a mount, and compares everything that was recorded."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowfs_daemon.fuse import mount as mounts
from tests.conformance.differences import explained, known_of
from tests.support.foreground import Foreground
from tests.support.live import live_store

_libc = ctypes.CDLL(None, use_errno=True)
_BIND, _REMOUNT, _AS_MOUNTED = 0x1000, 0x20, 0x402 | 0x4  # noatime, nosuid, nodev: as workspaces are mounted
PLAY_S = 1800


@dataclass
class Report:
    """``unknown``: what differs and should not; ``stale``: known differences that are gone; ``wide``: entries that
    explain more than they did when they were written.
    """

    transport: str

    cases: int = 0
    checks: int = 0
    known: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)

    def judge(self, played: set[str]) -> None:
        """Look for entries that explained nothing or too much in the cases ``played``."""
        for each in known_of(self.transport):
            if each.witness in played and not self.known[f"{each.name} in {each.witness}"]:
                self.stale.append(each.name)
            if self.known[each.name] > each.most_on(self.transport):
                self.wide.append(each.name)

    @property
    def passed(self) -> bool:
        """Whether everything is as documented."""
        return not self.unknown and not self.stale and not self.wide


@contextlib.contextmanager
def native_directory(path: Path) -> Iterator[Path]:
    """A directory of the disk's own filesystem, mounted with the flags that workspaces are mounted with."""
    path.mkdir()
    if os.geteuid():  # who cannot mount compares data alone, which do not depend on flags
        yield path
        return
    name = os.fsencode(path)
    for flags in (_BIND, _BIND | _REMOUNT | _AS_MOUNTED):
        if _libc.mount(name if flags == _BIND else b"none", name, None, flags, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield path
    finally:
        mounts.unmount(str(path), force=True)


@contextlib.contextmanager
def served(transport: str, directory: Path) -> Iterator[Path]:
    """An empty workspace of a new store below ``directory``, mounted."""
    if transport == "kernel":
        with live_store(directory) as live:
            live.engine.create("ws")
            yield live.mount("ws")
        return
    foreground = Foreground(directory)
    try:
        foreground.start()
        yield foreground.path
    finally:
        foreground.close()


def play(native: Path, mounted: Path, one_in: int, results: Path, transport: str = "kernel", only: str = "") -> Report:
    """Play one case in so many, or ``only`` some, in both directories; raw results go below ``results``."""
    files = []
    for name, directory in (("native", native), ("mounted", mounted)):
        out = results / f"{name}.jsonl"
        files.append(out)
        with out.open("wb") as stream:
            command = [sys.executable, "-m", "tests.conformance.player", str(directory), str(one_in), only]
            subprocess.run(command, stdout=stream, timeout=PLAY_S, check=True)
    report = Report(transport)
    played = set()
    with files[0].open() as one, files[1].open() as other:
        for expected, found in zip(one, other, strict=True):
            case = json.loads(expected)
            played.add(case[0])
            _compare(report, case, json.loads(found))
    report.judge(played)
    return report


def _compare(report: Report, expected: list[Any], found: list[Any]) -> None:
    name, native, mounted = expected[0], expected[1], found[1]
    assert name == found[0]
    report.cases += 1
    for one, other in zip(native, mounted, strict=False):
        if one[0] != other[0]:
            _differs(report, name, one[0], "step", one[0], other[0])
            return
        pairs = {"result": (one[1], other[1])}
        for path in one[2].keys() | other[2].keys():
            a, b = one[2].get(path, {}), other[2].get(path, {})
            pairs.update({f"{path} {key}": (a.get(key), b.get(key)) for key in a.keys() | b.keys()})
        report.checks += len(pairs)
        for what, (want, got) in sorted(pairs.items()):
            if want != got:
                _differs(report, name, one[0], what, want, got)
    if len(native) != len(mounted):
        _differs(report, name, "end", "steps", len(native), len(mounted))


def _differs(report: Report, case: str, step: str, what: str, native: Any, mounted: Any) -> None:
    known = explained(report.transport, case, step, what, f"{native!r} {mounted!r}")
    if known is None:
        report.unknown.append(f"{case}: {step}: {what}: ext4 {native!r}, cowfs {mounted!r}")
        return
    report.known[known.name] += 1
    if case == known.witness:
        report.known[f"{known.name} in {case}"] += 1
