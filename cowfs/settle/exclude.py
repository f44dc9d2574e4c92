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


class Excludes:
    """Compiled patterns. Raises :class:`Invalid` for one that is empty or malformed."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._names: list[re.Pattern[bytes]] = []
        self._paths: list[re.Pattern[bytes]] = []
        for pattern in patterns:
            self._add(pattern)
        self._none = not self._names and not self._paths

    def _add(self, pattern: str) -> None:
        raw = os.fsencode(pattern)
        body = raw.strip(b"/") if raw.endswith(b"/") else raw.lstrip(b"/")
        if not body or b"\0" in body:
            raise Invalid(f"exclude pattern {pattern!r}: matches nothing", hint="give a name or a relative path")
        # A directory is offered with a slash behind it, so that this end decides what may match.
        end = b"/" if raw.endswith(b"/") else b"/?"
        anchored = b"/" in body or raw.startswith(b"/")
        try:
            compiled = re.compile(translate(body) + end, re.DOTALL)
        except re.error as error:
            raise Invalid(f"exclude pattern {pattern!r}: {error}") from None
        (self._paths if anchored else self._names).append(compiled)

    def match(self, path: bytes, is_directory: bool) -> bool:
        """Whether the entry at this relative path (no slash at either end) is left out."""
        if self._none:
            return False
        offered = path + b"/" if is_directory else path
        name = offered[path.rfind(b"/") + 1 :]
        return any(p.fullmatch(name) for p in self._names) or any(p.fullmatch(offered) for p in self._paths)


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
