"""Whose ids this process may show: root's own, or those of an ordinary user."""

from __future__ import annotations

import os

from cowfs.client.subordinate import grants
from cowfs.owners import Ids, Owners


def owners() -> Owners | None:
    """The map of the user of this process; None for root, who shows ids as they are stored."""
    uid = os.geteuid()
    if uid == 0:
        return None
    found = grants(uid)
    users, groups = ([], []) if found.missing else (found.users, found.groups)
    return Owners(Ids([(uid, 1), *users]), Ids([(os.getegid(), 1), *groups]))
