"""Requests from inside of a sandbox: one line of JSON each, answered by one line. Nothing of them is trusted.

``{"verb": "checkpoint", "message": "…"}`` -> ``{"ok": {…}}`` or ``{"error": {"code", "message", "hint"}}``. A
connection carries any number of requests, one after the other.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from cowfs.errors import Invalid

REQUEST_BYTES: Final = 16 * 1024
"""A request with its newline at most."""

ANSWER_BYTES: Final = 4 << 20
"""An answer at most; a longer list is cut."""

VERBS: Final[dict[str, dict[str, int]]] = {
    "ping": {},
    "checkpoint": {"message": 4096, "label": 255},
    "restore": {"ref": 255},
    "log": {},
    "diff": {"a": 255, "b": 255},
    "fork": {"name": 255, "ref": 255},
}
"""Verb -> its fields, all of them texts, and how many characters each may have."""

ALWAYS: Final = ("ping", "checkpoint", "log", "diff")
CHOICES: Final = ("restore", "fork")
"""Verbs that the host allows, or not."""

_REFERENCE = re.compile(r"@[A-Za-z0-9._-]+|snap-[0-9a-f]+|")


def parse(line: bytes) -> tuple[str, dict[str, str]]:
    """(verb, fields given). Raises Invalid."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Invalid("a request is one line of JSON") from None
    if not isinstance(value, dict) or not isinstance(verb := value.pop("verb", None), str) or verb not in VERBS:
        raise Invalid(f"no such verb; there are: {', '.join(VERBS)}")
    fields = VERBS[verb]
    for name, text in value.items():
        if name not in fields or not isinstance(text, str):
            raise Invalid(f"{verb} takes texts: {', '.join(fields) or 'none'}")
        if len(text) > fields[name] or not text.isprintable():
            raise Invalid(f"{name}: at most {fields[name]} printable characters")
    for name in ("ref", "a", "b"):
        if not _REFERENCE.fullmatch(value.get(name, "")):
            raise Invalid(f"{name}: a snapshot of this workspace, as @LABEL, @latest, @-2, or its id")
    return verb, value


def answer(value: dict[str, Any]) -> bytes:
    """One line. What is too long becomes an error."""
    line = json.dumps(value).encode() + b"\n"
    if len(line) > ANSWER_BYTES:
        error = {"code": "invalid", "message": "the answer is too long", "hint": "Ask for less: a smaller difference."}
        return json.dumps({"error": error}).encode() + b"\n"
    return line


def refused(code: str, message: str, hint: str = "") -> bytes:
    """The answer to a request that failed."""
    return answer({"error": {"code": code, "message": message, "hint": hint}})
