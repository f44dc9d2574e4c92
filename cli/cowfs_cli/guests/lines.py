"""Lines of JSON from a guest, none of which is trusted: bounded, parsed strictly, or dropped.

The other side is guest/cowfs_guest/wire.py; docs/microvms.md has every message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound

VERSION: Final = 1
REQUEST_BYTES: Final = 64 * 1024
"""A line to the guest, with its newline, at most."""

LINE_BYTES: Final = 1 << 20
"""A line from the guest at most."""

WINDOW_BYTES: Final = 256 * 1024
"""Of a program's output that the guest may send before it is acknowledged."""

SESSION: Final = re.compile(r"[0-9a-f]{16}")
ID: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,15})")

_ERRORS: Final = {each.code: each for each in (Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)}


class Reader:
    """Cuts what is fed to it into lines. ``dropped``: how many were too long or no JSON object."""

    def __init__(self) -> None:
        self._data = b""
        self._skipping = False
        self.dropped = 0

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are complete now."""
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = self._data + lines[0]
            self._data = b""
        for line in lines:
            message = None if self._skipping or len(line) >= LINE_BYTES else parsed(line)
            if message is not None:
                yield message
            elif self._skipping or line:
                self.dropped += 1
            self._skipping = False
        if not self._skipping:
            self._data += rest
            if len(self._data) >= LINE_BYTES:
                self._data, self._skipping = b"", True


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object that a line is, or None."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def encoded(message: dict[str, Any]) -> bytes:
    """One line. Raises Invalid when it is too long for the guest."""
    line = json.dumps(message).encode() + b"\n"
    if len(line) > REQUEST_BYTES:
        raise Invalid(
            f"a request to a guest has at most {REQUEST_BYTES} bytes", hint="Give it less: a shorter command or input."
        )
    return line


def failure(shape: object) -> CowfsError:
    """The error that a guest tells, as far as it can be believed."""
    if not isinstance(shape, dict):
        return misbehaving("an error without a shape")
    code, message, hint = (shape.get(name) for name in ("code", "message", "hint"))
    kind = _ERRORS.get(code, CowfsError) if isinstance(code, str) else CowfsError
    return kind(f"the guest says: {_shown(message)}", hint=_shown(hint))


def _shown(text: object) -> str:
    if not isinstance(text, str):
        return ""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:1000])


def misbehaving(what: str) -> Conflict:
    """A guest that does not keep to the protocol."""
    return Conflict(
        f"the guest does not keep to the protocol: {what}", hint="Its cowfs-guest is of another version, or hostile."
    )


def whole(answer: dict[str, Any], name: str, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number of an answer. Raises Conflict."""
    value = answer.get(name)
    if type(value) is not int or not least <= value <= most:
        raise misbehaving(f"{name} is no such number")
    return value


def number(answer: dict[str, Any], name: str, most: float = 1e9) -> float:
    """A number of an answer, not negative. Raises Conflict."""
    value = answer.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise misbehaving(f"{name} is no such number")
    return float(value)


def flag(answer: dict[str, Any], name: str) -> bool:
    """True or false, of an answer. Raises Conflict."""
    value = answer.get(name)
    if not isinstance(value, bool):
        raise misbehaving(f"{name} is neither true nor false")
    return value


def text(answer: dict[str, Any], name: str, most: int = 4096) -> str:
    """A printable text of an answer. Raises Conflict."""
    value = answer.get(name)
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise misbehaving(f"{name} is no such text")
    return value


def texts(answer: dict[str, Any], name: str, most: int = 64) -> list[str]:
    """A list of printable texts of an answer. Raises Conflict."""
    value = answer.get(name)
    if not isinstance(value, list) or len(value) > most:
        raise misbehaving(f"{name} is no such list")
    return [text({name: each}, name) for each in value]
