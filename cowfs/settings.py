"""Every setting of workspaces and snapshots: the one table from which parsing, help and documents come.

A value is written as text (``10G``, ``7d``, ``yes``), kept in the control log as text of its plain form (bytes, count,
seconds, 1), and given out as a number, a truth value or text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cowfs.errors import Invalid
from cowfs.view.room import Quota

Value = int | bool | str

WORKSPACE, SNAPSHOT = "workspace", "snapshot"
TEXT_MAX = 4096
"""Characters in a text at most."""

RECORD_MAX = 32_768
"""Characters at most in what a program notes about a workspace."""

IMAGE_CONFIG = "image.config"
"""Under this the control log keeps an image's configuration, of the workspace that it became and of its forks.

It is no setting for people."""

IMAGE_CHAIN = "image.chain"
"""Under this the control log keeps which layer of an image a snapshot is, and what lies below: its ChainID."""

NUMBER_MAX = 1 << 62
_BYTES = re.compile(r"([0-9]{1,19})([KMGTP]?)(?:iB|B)?", re.IGNORECASE)
_COUNT = re.compile(r"([0-9]{1,19})([kM]?)")
_DURATION = re.compile(r"([0-9]{1,19})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FLAGS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """``kind``: bytes, count, duration (in seconds), flag or text (of ``most`` characters).

    ``inherited``: forks begin with it."""

    key: str
    kind: str
    targets: tuple[str, ...]
    help: str
    default: Value | None = None
    least: int = 0
    most: int = TEXT_MAX
    inherited: bool = False


TABLE = (
    Setting("quota.bytes", "bytes", (WORKSPACE,), "at most so many bytes in its files and directories",
            least=4096, inherited=True),
    Setting("quota.inodes", "count", (WORKSPACE,), "at most so many files and directories", least=1, inherited=True),
    Setting("retention.last", "count", (WORKSPACE,), "keep so many of its newest snapshots", inherited=True),
    Setting("retention.within", "duration", (WORKSPACE,), "keep its snapshots for so long", least=1, inherited=True),
    Setting("retention.automatic", "count", (WORKSPACE,), "keep so many of its newest automatic snapshots",
            default=20, inherited=True),
    Setting("ttl", "duration", (WORKSPACE,), "remove the workspace when it was not used for so long", least=1),
    Setting("disk", "text", (WORKSPACE,), "the file at its top that is a machine's disk: not restored while open",
            inherited=True),
    Setting("pin", "flag", (WORKSPACE, SNAPSHOT), "never remove it by a rule"),
    Setting("template", "text", (SNAPSHOT,), "its name as a template; no rule removes one"),
    Setting("description", "text", (WORKSPACE, SNAPSHOT), "what it is"),
    Setting("managed", "text", (WORKSPACE,), "what the program that manages it notes about it", most=RECORD_MAX),
)  # fmt: skip
"""In the order in which they are shown. ``label`` is written like them, but is no setting: it names a snapshot."""

_BY_KEY = {setting.key: setting for setting in TABLE}


def applicable(target: str) -> tuple[Setting, ...]:
    """The settings of a workspace, or of a snapshot."""
    return tuple(setting for setting in TABLE if target in setting.targets)


def find(key: str, target: str) -> Setting:
    """The setting of that name. Raises Invalid, listing those that there are."""
    setting = _BY_KEY.get(key)
    if setting is None or target not in setting.targets:
        names = [each.key for each in applicable(target)] + (["label"] if target == SNAPSHOT else [])
        raise Invalid(f"a {target} has no setting {key[:80]!a}", hint=f"It has: {', '.join(names)}.")
    return setting


def parse(setting: Setting, text: str) -> Value:
    """The value that ``text`` means. Raises Invalid, saying how it is written."""
    value = _PARSERS[setting.kind](text)
    if isinstance(value, str) and len(value) > setting.most:
        value = None
    if value is None:
        example = EXAMPLES[setting.kind].format(most=setting.most)
        raise Invalid(f"{setting.key}: {text[:80]!a} is no {setting.kind}", hint=f"Write {example}.")
    if isinstance(value, int) and not setting.least <= value <= NUMBER_MAX:
        bound = f"at least {show(setting, setting.least)}" if value < setting.least else f"at most {NUMBER_MAX}"
        raise Invalid(f"{setting.key}: {text[:80]!a} is out of range, {bound}", hint=f"{setting.key}= takes it away.")
    return value


EXAMPLES = {
    "bytes": "a whole number with K, M, G, T or P, such as 10G (units of 1024)",
    "count": "a whole number, k and M mean thousands and millions, such as 20 or 1M",
    "duration": "a whole number with s, m, h, d or w, such as 90s or 7d",
    "flag": "yes or no",
    "text": "at most {most} characters without control characters",
}
"""How a value of each kind is written."""


def _bytes(text: str) -> Value | None:
    found = _BYTES.fullmatch(text)
    return None if found is None else int(found[1]) << 10 * " KMGTP".index(found[2].upper() or " ")


def _count(text: str) -> Value | None:
    found = _COUNT.fullmatch(text)
    return None if found is None else int(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]


def _duration(text: str) -> Value | None:
    found = _DURATION.fullmatch(text)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def _text(text: str) -> Value | None:
    return text if text and text.isprintable() else None


_PARSERS: dict[str, Callable[[str], Value | None]] = {
    "bytes": _bytes, "count": _count, "duration": _duration, "flag": _FLAGS.get, "text": _text,
}  # fmt: skip


def show(setting: Setting, value: Value) -> str:
    """A value as it is written: in the largest unit that is exact."""
    if setting.kind == "flag":
        return "yes" if value else "no"
    if isinstance(value, str) or setting.kind == "count":
        return str(value)
    if setting.kind == "bytes":
        power = next((each for each in range(5, 0, -1) if value and not value % 1024**each), 0)
        return f"{value >> 10 * power}{' KMGTP'[power].strip()}"
    unit = next((each for each in "wdhm" if value and not value % _SECONDS[each]), "s")
    return f"{value // _SECONDS[unit]}{unit}"


def encode(value: Value) -> bytes:
    """As the control log keeps it."""
    return str(int(value) if isinstance(value, bool) else value).encode()


def decode(setting: Setting, stored: bytes) -> Value | None:
    """What the control log keeps; None for what no cowfs has written."""
    try:
        text = stored.decode()
        return text if setting.kind == "text" else bool(int(text)) if setting.kind == "flag" else int(text)
    except ValueError:
        return None


def values(stored: Mapping[str, bytes]) -> dict[str, Value]:
    """Every setting that is set, in the order of the table; what else the control log keeps is left out."""
    found = ((setting.key, decode(setting, stored[setting.key])) for setting in TABLE if setting.key in stored)
    return {key: value for key, value in found if value is not None}


def number(stored: Mapping[str, bytes], key: str) -> int | None:
    """The number that is set, else the default; None when there is neither."""
    value = values(stored).get(key, _BY_KEY[key].default)
    return int(value) if isinstance(value, int) else None


def quota(stored: Mapping[str, bytes]) -> Quota:
    """The limits of a workspace with these settings."""
    return Quota(number(stored, "quota.bytes") or 0, number(stored, "quota.inodes") or 0)


def inherited(stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a fork of a workspace with these settings begins with."""
    kept = {IMAGE_CONFIG, *(setting.key for setting in TABLE if setting.inherited)}
    return {key: value for key, value in stored.items() if key in kept}
