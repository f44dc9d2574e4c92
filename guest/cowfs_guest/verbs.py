"""What a host may ask of a virtual machine, with every field checked."""

from __future__ import annotations

import base64
import platform
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cowfs_guest import Refused, machine
from cowfs_guest.freezing import SECONDS, SECONDS_MAX
from cowfs_guest.running import TIMEOUT_SECONDS_MAX, Run

if TYPE_CHECKING:
    from cowfs_guest.serve import Server

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
SEED_BYTES = 512


class Fields:
    """The fields of one request; what is taken is checked, what is left is refused by :meth:`done`. All raise Refused,
    invalid."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def number(self, name: str, default: float, most: float) -> float:
        """A number over 0, ``most`` at most."""
        value = self._given.pop(name, default)
        if type(value) not in (int, float) or not 0 < value <= most:
            raise Refused("invalid", f"{name}: a number over 0, {most:g} at most")
        return float(value)

    def whole(self, name: str) -> int:
        """A whole number, which must be given."""
        value = self._given.pop(name, None)
        if type(value) is not int:
            raise Refused("invalid", f"{name}: a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True or, when it is not given, false."""
        value = self._given.pop(name, False)
        if not isinstance(value, bool):
            raise Refused("invalid", f"{name}: true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A text without NUL."""
        value = self._given.pop(name, default)
        if not _plain(value) and name != "stdin":
            raise Refused("invalid", f"{name}: a text without NUL")
        if not isinstance(value, str):
            raise Refused("invalid", f"{name}: a text")
        return value

    def texts(self, name: str) -> list[str]:
        """Texts without NUL, one at least, the first not empty."""
        value = self._given.pop(name, None)
        if not isinstance(value, list) or not value or not value[0] or not all(map(_plain, value)):
            raise Refused("invalid", f"{name}: a list of texts without NUL, the first not empty")
        return value

    def pairs(self, name: str) -> dict[str, str]:
        """Names and texts of an environment."""
        value = self._given.pop(name, {})
        if not isinstance(value, dict) or not all(
            _plain(key) and _plain(text) and key and "=" not in key for key, text in value.items()
        ):
            raise Refused("invalid", f"{name}: names without = and texts")
        return value

    def done(self) -> None:
        """All fields have been taken."""
        if self._given:
            raise Refused("invalid", f"no such field: {', '.join(sorted(self._given))[:200]}")


def _plain(value: object) -> bool:
    """A text that can be a word of a command line: without NUL, and encodable."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _ping(server: Server, fields: Fields) -> dict[str, Any]:
    fields.done()
    return {"python": platform.python_version(), "frozen": server.freezer.frozen, "roots": server.roots}


def _freeze(server: Server, fields: Fields) -> dict[str, Any]:
    seconds = fields.number("seconds", SECONDS, SECONDS_MAX)
    fields.done()
    return dict(server.freezer.freeze(seconds))


def _thaw(server: Server, fields: Fields) -> dict[str, Any]:
    fields.done()
    return dict(server.freezer.thaw())


def _sync(server: Server, fields: Fields) -> dict[str, Any]:
    fields.done()
    _need_thawed(server)
    return machine.sync(server.roots)


def _trim(server: Server, fields: Fields) -> dict[str, Any]:
    fields.done()
    _need_thawed(server)
    return machine.trim(server.roots)


def _clock(_: Server, fields: Fields) -> dict[str, Any]:
    time_ns = fields.whole("time_ns")
    fields.done()
    return machine.clock(time_ns)


def _hygiene(server: Server, fields: Fields) -> dict[str, Any]:
    hostname = fields.text("hostname")
    if hostname and not _HOSTNAME.fullmatch(hostname):
        raise Refused("invalid", "hostname: up to 64 letters, digits, dots and hyphens")
    try:
        seed = base64.b64decode(fields.text("seed_b64"), validate=True)
    except ValueError:
        raise Refused("invalid", "seed_b64: bytes in base64") from None
    if len(seed) > SEED_BYTES:
        raise Refused("invalid", f"seed_b64: {SEED_BYTES} bytes at most")
    machine_id, keys = fields.flag("machine_id"), fields.flag("ssh_host_keys")
    fields.done()
    _need_thawed(server)
    return machine.hygiene(seed, machine_id, hostname, keys)


def _exec(server: Server, fields: Fields) -> Run:
    argv, env, cwd = fields.texts("argv"), fields.pairs("env"), fields.text("cwd", "/")
    stdin = fields.text("stdin")
    timeout = fields.number("timeout_seconds", 600.0, TIMEOUT_SECONDS_MAX)
    fields.done()
    _need_thawed(server)
    return Run(argv, env, cwd, stdin, timeout)


def _need_thawed(server: Server) -> None:
    """What writes to a frozen filesystem waits for ever; so it is not begun."""
    if server.freezer.frozen:
        raise Refused("busy", "the filesystems are frozen", "Thaw them first.")


VERBS: dict[str, Callable[[Server, Fields], Any]] = {
    "ping": _ping, "freeze": _freeze, "thaw": _thaw, "sync": _sync, "trim": _trim, "exec": _exec, "clock": _clock,
    "hygiene": _hygiene,
}  # fmt: skip
