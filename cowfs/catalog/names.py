"""Which workspace names and labels are allowed. Every check raises :class:`Invalid` with one line and a hint."""

from __future__ import annotations

import re

from cowfs.errors import Invalid
from cowfs.formats.control_fields import TEXT_MAX

NAME_MAX = 255
"""Characters in a workspace name or label at most; a name is also the last part of a mount path."""

RESERVED = "template"
"""No new workspace gets this name: what follows a colon behind it is a template's name, behind any other a path."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LABEL = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
_ALLOWED = "letters, digits and ._- are allowed"


def check_workspace_name(name: str) -> str:
    """``name``, when it may name a workspace: ASCII letters, digits, ``._-``, not beginning with ``-`` or ``.``.

    ``snap-`` at the beginning is reserved, so that a reference is never both a name and a snapshot id.
    """
    if not _NAME.fullmatch(name):
        raise Invalid(f"malformed workspace name {_shown(name)}", hint=f"{_ALLOWED}, not beginning with - or .")
    if name.startswith("snap-"):
        raise Invalid(f"malformed workspace name {_shown(name)}", hint="snap- begins the ids of snapshots")
    return _fitting("workspace name", name)


def check_new_name(name: str) -> str:
    """As :func:`check_workspace_name`, of a workspace to be: older stores may have one that has a reserved name."""
    if name == RESERVED:
        raise Invalid(f"no workspace can be named {name}", hint=f"{name}:NAME is a reference to a template")
    return check_workspace_name(name)


def check_label(label: str) -> str:
    """``label``, when it may label a snapshot: ASCII letters, digits, ``._-``, not beginning with ``-``, not latest."""
    if not _LABEL.fullmatch(label):
        raise Invalid(f"malformed label {_shown(label)}", hint=f"{_ALLOWED}, not beginning with -")
    if label == "latest":
        raise Invalid("latest cannot be a label", hint="@latest always means the newest snapshot")
    return _fitting("label", label)


def check_texts(**texts: str) -> None:
    """Whether the control log can hold these: a message, a creator; the keyword says which."""
    for what, text in texts.items():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise Invalid(f"a {what} that is not valid UTF-8", hint="write it in UTF-8") from None
        if size > TEXT_MAX:
            raise Invalid(f"a {what} of {size} bytes is too long", hint=f"at most {TEXT_MAX} bytes of UTF-8")


def fork_names(name: str, count: int | None) -> list[str]:
    """The names of a fork: ``name``, or ``name-1`` … ``name-count``. Each is checked."""
    if count is None:
        return [check_new_name(name)]
    if count < 1:
        raise Invalid(f"cannot make {count} forks", hint="--count is at least 1")
    return [check_workspace_name(f"{name}-{number}") for number in range(1, count + 1)]


def _fitting(what: str, text: str) -> str:
    if len(text) > NAME_MAX:
        raise Invalid(f"{what} of {len(text)} characters is too long", hint=f"at most {NAME_MAX} characters")
    return text


def _shown(text: str) -> str:
    """``text`` quoted on one printable line, cut when long."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
