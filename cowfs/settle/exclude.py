"""Patterns that leave paths out of an import.

A pattern is matched against the path relative to the imported directory, as bytes, case-sensitively:

- without a slash (but for one at the end) it matches a name at any depth: ``*.pyc``, ``.git``;
- with a slash it matches the whole relative path: ``var/cache/*``, ``/tmp`` (a leading slash only anchors);
- a slash at the end matches directories only: ``node_modules/``;
- ``*`` and ``?`` do not cross slashes, ``**`` does; ``[abc]``, ``[a-z]``, ``[!a]`` are sets; backslash takes the next
  character as it is.

A directory that matches is left out with everything below it. There is no negation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from cowfs.errors import Invalid

_Rule = tuple[re.Pattern[bytes], bool]  # the pattern, and whether it is for directories only


class Excludes:
    """Compiled patterns. Raises :class:`Invalid` for one that is empty or malformed."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._names: list[_Rule] = []
        self._paths: list[_Rule] = []
        for pattern in patterns:
            self._add(pattern)
        self._none = not self._names and not self._paths

    def _add(self, pattern: str) -> None:
        raw = os.fsencode(pattern)
        body = raw.strip(b"/") if raw.endswith(b"/") else raw.lstrip(b"/")
        if not body or b"\0" in body:
            raise Invalid(f"exclude pattern {pattern!r}: matches nothing", hint="give a name or a relative path")
        try:
            compiled = re.compile(translate(body), re.DOTALL)
        except re.error as error:
            raise Invalid(f"exclude pattern {pattern!r}: {error}") from None
        anchored = b"/" in body or raw.startswith(b"/")
        (self._paths if anchored else self._names).append((compiled, raw.endswith(b"/")))

    def match(self, path: bytes, is_directory: bool) -> bool:
        """Whether the entry at this relative path (no slash at either end) is left out."""
        if self._none:
            return False
        return _any(self._names, path[path.rfind(b"/") + 1 :], is_directory) or _any(self._paths, path, is_directory)


def _any(rules: list[_Rule], offered: bytes, is_directory: bool) -> bool:
    return any((is_directory or not directories) and rule.fullmatch(offered) for rule, directories in rules)


def translate(pattern: bytes) -> bytes:
    """A glob pattern as a regular expression over bytes."""
    parts: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            stars = at - 1
            while pattern[at : at + 1] == b"*":
                at += 1
            if at - stars == 1:
                parts.append(b"[^/]*")
            elif pattern[at : at + 1] == b"/" and (stars == 0 or pattern[stars - 1 : stars] == b"/"):
                parts.append(b"(?:.*/)?")  # a/**/b matches a/b too
                at += 1
            else:
                parts.append(b".*")
        elif char == b"?":
            parts.append(b"[^/]")
        elif char == b"[" and (end := pattern.find(b"]", at + 2 if pattern[at : at + 1] == b"!" else at + 1)) > 0:
            inner = pattern[at:end].replace(b"\\", b"\\\\").replace(b"[", b"\\[")
            negated = inner.startswith(b"!")
            inner = (inner[1:] if negated else inner).replace(b"^", b"\\^").replace(b"&", b"\\&").replace(b"~", b"\\~")
            parts.append((b"[^/" if negated else b"(?!/)[") + inner.replace(b"|", b"\\|") + b"]")
            at = end + 1
        elif char == b"\\" and at < len(pattern):
            parts.append(re.escape(pattern[at : at + 1]))
            at += 1
        else:
            parts.append(re.escape(char))
    return b"".join(parts)
