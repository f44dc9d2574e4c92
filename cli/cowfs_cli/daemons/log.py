"""``cowfs daemon log``."""

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import click

from cowfs.errors import NotFound
from cowfs_cli.common import Session, clean, options

FILES = 4
LINE_MAX = 65_536
POLL_SECONDS = 0.2


@click.command("log")
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="So many of the newest.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--workspace", metavar="WS", help="Only what is about this workspace.")
@options
def command(session: Session, lines: int, follow: bool, workspace: str | None) -> None:
    """Show what the daemon has logged, the newest last. With --json, one object a line, as it is in the file.

    No daemon is needed. A daemon in the foreground logs to its standard error instead.

    \b
    Example:
      cowfs daemon log -n 200 --json | jq 'select(.level == "error")'
    """
    from cowfs.client.place import LOG_NAME, daemon_dir

    path = os.path.join(daemon_dir(session.path()), LOG_NAME)
    if not os.path.exists(path):
        raise NotFound(f"no daemon has logged to {path}", hint="one in the foreground logs to its standard error")
    newest: deque[dict[str, Any]] = deque(maxlen=lines)
    for number in range(FILES - 1, 0, -1):
        newest.extend(_selected(_read(f"{path}.{number}"), workspace))
    with open(path, "rb") as file:
        newest.extend(_selected(_lines(file), workspace))
        for entry in newest:
            _print(session, entry)
        if not follow:
            return
        inode = os.fstat(file.fileno()).st_ino
        with contextlib.ExitStack() as later:
            current = file
            while True:
                for entry in _selected(_lines(current), workspace):
                    _print(session, entry)
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(path).st_ino != inode:
                        for entry in _selected(_lines(current), workspace):
                            _print(session, entry)
                        current = later.enter_context(open(path, "rb"))
                        inode = os.fstat(current.fileno()).st_ino
                        continue
                time.sleep(POLL_SECONDS)


def _read(path: str) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        yield from _lines(file)


def _lines(file: Any) -> Iterator[dict[str, Any]]:
    """Every whole line; what is no JSON object is an event of its own."""
    while line := file.readline(LINE_MAX):
        if not line.endswith(b"\n") and len(line) < LINE_MAX:
            file.seek(-len(line), os.SEEK_CUR)  # still being written
            return
        text = line.decode(errors="replace").rstrip("\n")
        try:
            entry = json.loads(text)
        except ValueError:
            entry = None
        yield entry if isinstance(entry, dict) else {"event": text}


def _selected(entries: Iterator[dict[str, Any]], workspace: str | None) -> Iterator[dict[str, Any]]:
    return (entry for entry in entries if workspace is None or entry.get("workspace") == workspace)


def _print(session: Session, entry: dict[str, Any]) -> None:
    if session.json:
        click.echo(json.dumps(entry))
        return
    head = " ".join(str(entry[key]) for key in ("time", "level", "process", "pid", "workspace") if key in entry)
    click.echo(clean(f"{head}: {entry.get('event', '')}" if head else str(entry["event"])))
    for line in str(entry.get("traceback", "")).splitlines():
        click.echo("    " + clean(line))
