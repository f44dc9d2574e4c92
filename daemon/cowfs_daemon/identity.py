"""Whose ids this process may show: root's own, or those of an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
from contextlib import suppress
from pathlib import Path

from cowfs.owners import Ids, Owners, Range, granted


def owners() -> Owners | None:
    """The map of the user of this process; None for root, who shows ids as they are stored.

    Subordinate ids count where newuidmap(1) is there, without which nobody can use them.
    """
    uid = os.geteuid()
    if uid == 0:
        return None
    names = [str(uid)]
    with suppress(KeyError):
        names.append(pwd.getpwuid(uid).pw_name)
    usable = shutil.which("newuidmap") is not None and shutil.which("newgidmap") is not None
    users = _granted("/etc/subuid", names) if usable else []
    groups = _granted("/etc/subgid", names) if usable else []
    return Owners(Ids([(uid, 1), *users]), Ids([(os.getegid(), 1), *groups]))


def _granted(path: str, names: list[str]) -> list[Range]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return granted(text.splitlines(), names)
