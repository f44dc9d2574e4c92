"""containerd's filters of lists: ``kind==active,labels."a.b"!=x``.

A filter is a list of conditions, all of which must hold; of several filters, one must. The operators are ``==`` and
``!=``; a field alone asks whether there is one. Regular expressions (``~=``) are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from cowfs.errors import Invalid
from cowfs_cli.containerd.snapshots import Info

FILTERS_MAX = 64
CHARACTERS_MAX = 8192
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_CONDITION = re.compile(
    rf'(name|parent|kind|labels\.(?:{_QUOTED}|[A-Za-z0-9_]+))(?:(==|!=)({_QUOTED}|[^",=!~]+))?(,|$)'
)

Condition = Callable[[Info], bool]


def parse(filters: list[str]) -> Condition:
    """What is listed; without filters everything. Raises Invalid."""
    if len(filters) > FILTERS_MAX:
        raise Invalid(f"there are {len(filters)} filters", hint=f"at most {FILTERS_MAX}")
    parsed = [_one(text) for text in filters]
    return lambda info: not parsed or any(all(holds(info) for holds in conditions) for conditions in parsed)


def _one(text: str) -> list[Condition]:
    if len(text) > CHARACTERS_MAX:
        raise Invalid(f"a filter has {len(text)} characters", hint=f"at most {CHARACTERS_MAX}")
    conditions, at = [], 0
    while at < len(text):
        found = _CONDITION.match(text, at)
        if found is None or (found[4] == "," and found.end() == len(text)):
            raise Invalid(f"cannot read the filter {text[:200]!a}", hint="write FIELD==VALUE,FIELD!=VALUE,FIELD")
        conditions.append(_condition(found[1], found[2], None if found[3] is None else _plain(found[3])))
        at = found.end()
    return conditions


def _condition(field: str, operator: str | None, wanted: str | None) -> Condition:
    def holds(info: Info) -> bool:
        value = _value(info, field)
        if operator is None:
            return value is not None
        return (value == wanted) == (operator == "==")

    return holds


def _value(info: Info, field: str) -> str | None:
    if field.startswith("labels."):
        return info.labels.get(_plain(field.removeprefix("labels.")))
    return {"name": info.key, "parent": info.parent or None, "kind": info.kind}[field]


def _plain(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        raise Invalid(f"cannot read {text[:200]!a} in a filter") from None
