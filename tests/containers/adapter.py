"""A command that serves a Unix socket in the foreground, as a process; and servers of others that tests start."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.live import Live

SECONDS = 30.0


@contextmanager
def serving(live: Live, command: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``cowfs COMMAND --socket PATH`` once it serves; it ends with the context, and must do so cleanly."""
    words = live.words(command, "--socket", str(path), "--json")
    process = subprocess.Popen(words, env=live.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"cowfs {command} ended"
        assert json.loads(line)["socket"] == str(path)
        yield process
        if process.poll() is None:
            process.terminate()
            assert process.wait(SECONDS) == 0
            assert not path.exists()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def foreign(words: list[str], ready: Callable[[], bool], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another program's server once ``ready``; told to end, then killed, with the context."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            until(lambda: ready() or process.poll() is not None, log)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(condition: Callable[[], bool], log: Path | None = None, seconds: float = SECONDS) -> None:
    """Return when ``condition`` holds; asked again and again."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("it never came true" + ("" if log is None else ":\n" + log.read_text()))


def obstacle(*programs: str) -> str:
    """Why programs of others cannot be used here; empty: they can."""
    missing = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""
