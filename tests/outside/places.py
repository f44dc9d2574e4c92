"""Where suites are run: a workspace of a real daemon, or one in the foreground, and ext4."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cli.live import Live, living
from tests.support.foreground import Foreground


@dataclass(frozen=True)
class Place:
    """``faults``: what fsck finds, what ended by itself, and what the log holds of errors."""

    path: Path
    faults: Callable[[], list[str]]


@contextmanager
def served(transport: str, directory: Path) -> Iterator[Place]:
    """An empty workspace of a new store below ``directory``, mounted by processes of its own."""
    if transport == "kernel":
        with living(directory / "store") as live:
            live.cowfs("create", "ws")
            path, workers = Path(live.cowfs("path", "ws")), _workers(live)
            yield Place(path, lambda: _faults(live, _workers(live) == workers))
        return
    foreground = Foreground(directory)
    try:
        foreground.start()
        process = foreground.process
        assert process is not None
        yield Place(foreground.path, lambda: _faults(foreground.live, process.poll() is None))
    finally:
        foreground.close()


def _workers(live: Live) -> list[int]:
    return [each["pid"] for each in live.json("daemon", "status")["workers"]]


def _faults(live: Live, alive: bool) -> list[str]:
    found = [] if alive else ["a process that serves the workspace ended by itself"]
    checked = live.run("fsck", "--deep")
    if checked.out != "clean\n":
        found.append(f"fsck: {checked.out}{checked.err}")
    return found + [line for line in live.log().splitlines() if line and not _harmless(line)]


def _harmless(line: str) -> bool:
    """Of a line of the log: it is one, and no error. What is none is a traceback."""
    try:
        return json.loads(line)["level"] in ("info", "warning")
    except (ValueError, KeyError):
        return False
