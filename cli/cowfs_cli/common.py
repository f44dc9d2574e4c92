"""What every command shares: its options, the wire, and how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from cowfs.client.place import store_path
from cowfs.client.wire import Wire

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Session:
    """The options that every command takes, and the connection they name."""

    def __init__(self) -> None:
        self.store: str | None = None
        self.json = False

    def path(self) -> str:
        """The absolute path of the store. Raises Invalid when none is named."""
        return store_path(self.store)

    def wire(self, *, start: bool = True) -> Wire:
        return Wire(self.path(), start=start)

    def call(self, method: str, target: str, body: object = None) -> Any:
        """One request to the daemon, which is started if need be; the JSON of its answer."""
        return self.wire().call(method, target, body)

    def out(self, value: object, text: Callable[[], Iterable[str]], *, exact: bool = False) -> None:
        """Print ``value`` as JSON with ``--json``, else the lines of ``text``, cleaned.

        ``exact``: they are for a program, such as a path in a script, and nobody hostile has chosen what is in them.
        """
        if self.json:
            click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))
        else:
            for line in text():
                click.echo(line if exact else clean(line))


def _session(context: click.Context) -> Session:
    session = context.find_object(Session)
    if session is None:
        session = context.find_root().obj = Session()
        context.obj = session
    return session


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        session = _session(context)
        if value is not None and value is not False:
            setattr(session, name, value)

    return callback


pass_session = click.make_pass_decorator(Session, ensure=True)


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--store``, ``--json`` and ``--debug``; the command's function gets a Session first."""
    function = pass_session(function)
    function = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors.")(function)
    function = click.option(
        "--json", is_flag=True, expose_value=False, callback=_set("json"), help="Print JSON, errors too."
    )(function)
    return click.option(
        "--store",
        metavar="DIR",
        expose_value=False,
        callback=_set("store"),
        help="The store. Default: COWFS_STORE, or the user's own.",
    )(function)


def complete_ref(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Workspaces, and after ``@`` their labels; nothing when no daemon runs (completion starts none)."""
    from cowfs.client.wire import segment
    from cowfs.errors import CowfsError

    try:
        wire = Wire(_session(context).path(), start=False)
        name, at, _prefix = incomplete.partition("@")
        if not at:
            found = [str(each["name"]) for each in wire.call("GET", "/v1/workspaces")]
        else:
            log = wire.call("GET", f"/v1/workspaces/{segment(name)}/log")
            found = [f"{name}@{label}" for each in log for label in each["labels"]] + [f"{name}@latest"]
    except CowfsError:
        return []
    return [each for each in found if each.startswith(incomplete)]


def split_path(text: str) -> tuple[str, str | None]:
    """``REF:PATH`` -> (reference, path), the path None where there is none; ``template:NAME`` is a reference."""
    kind, colon, rest = text.partition(":")
    if kind != "template" or not colon:
        return kind, rest if colon else None
    name, colon, path = rest.partition(":")
    return f"{kind}:{name}", path if colon else None


def bytes_of(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A number of bytes such as 50M."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise click.BadParameter(f"{text!r} is no number of bytes such as 50M", param=parameter)
    return int(number) * _UNITS[unit]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns; nothing at all without rows."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def when(rfc3339: str) -> str:
    """A time to the second, still in UTC."""
    return rfc3339[:19].replace("T", " ") + "Z"


def size(count: int) -> str:
    """Bytes for people: 3 significant digits, binary units."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}" if unit != "B" else f"{count} B"
        amount /= 1024
    return f"{amount:.4g} TiB"


def plural(count: int, noun: str) -> str:
    """``count`` and ``noun``, with an s unless it is one."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def clean(text: str) -> str:
    """``text`` without control characters, so that a hostile name or message cannot drive the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
