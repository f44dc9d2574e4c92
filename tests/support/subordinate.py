"""A user namespace of an ordinary user, with the subordinate ids that subuid(5) and subgid(5) grant (newuidmap)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from cowfs.client.subordinate import TOOLS, grants
from cowfs_daemon.identity import owners


def obstacle() -> str:
    """Why there can be none for this user; empty: there can."""
    found = grants(os.geteuid())
    if found.missing:
        return "needs newuidmap: apt-get install uidmap"
    return "" if found.users and found.groups else "only as a user to whom /etc/subuid and /etc/subgid grant ids"


def run_inside(words: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command as root of such a namespace, and of a mount namespace; its ids 1 and up are the granted ones."""
    mine = owners()
    assert mine is not None
    # The shell waits for its ids: who has none at exec loses every capability.
    outer = ["unshare", "--user", "--mount", "--kill-child", "--fork", "sh", "-c", 'echo; read -r _; exec "$@"', "sh"]
    with subprocess.Popen(
        [*outer, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            for tool, ids in zip(TOOLS, mine, strict=True):
                numbers = [number for first, count in ids.ranges for number in (ids.stored(first), first, count)]
                subprocess.run([tool, str(process.pid), *map(str, numbers)], check=True)
            out, err = process.communicate("\n", timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)
