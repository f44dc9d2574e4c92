"""From root: the tests below, and others that need no root, as an ordinary user of this machine."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence

import pytest

from cowfs.client.subordinate import FILES, TOOLS
from cowfs_daemon.fuse.fusermount import CONFIGURATION
from tests.support import ordinary
from tests.support.mounting import OBSTACLE, ROOT

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not ROOT or bool(OBSTACLE), reason="only from root, who can become another user"),
]

SUITES = {
    "tests/unprivileged": 12,
    "tests/fuse": 110,
    "tests/foreground": 12,
    "tests/cli/test_session.py": 12,
    "tests/cli/test_outliving.py": 6,
    "tests/cli/test_subtrees.py": 16,
    "tests/workers/test_workers.py": 8,
    "tests/workers/test_replaced.py": 12,
    "tests/conformance": 6,
    "tests/databases": 1,
}
"""Suite -> how many of its tests pass at least: what needs root, or a program that may be missing, is skipped."""

TIMEOUT_SECONDS = 600
"""For each of them; a slow machine takes three times as long as a fast one."""

GRANTED = {
    FILES[0]: f"{ordinary.USER}:100000:65536\n",
    FILES[1]: f"{ordinary.USER}:200000:65536\n",
    CONFIGURATION: "user_allow_other\n",
}
"""Subordinate ids, and mounts that other users of a namespace may enter."""

AS_A_WORKSPACE = ('mount --bind "$HOME" "$HOME"', 'mount -o remount,bind,noatime,nosuid,nodev "$HOME"')
"""How the home is mounted, so that a native directory in it can be compared with a workspace."""

OWN_DEVICES = 'mount -t tmpfs -o mode=755 cowfs-test "$1"'
CLOSED = (OWN_DEVICES, 'mknod -m 600 "$1/fuse" c 10 229', 'mount --bind "$1/fuse" /dev/fuse')
MISSING = (
    OWN_DEVICES,
    'for each in null zero random urandom; do touch "$1/$each"; mount --bind "/dev/$each" "$1/$each"; done',
    'mkdir -m 1777 "$1/shm"',
    'mount --rbind "$1" /dev',
)
"""How /dev/fuse is there for root alone, and not at all."""


def passes(suite: str, at_least: int, files: Mapping[str, str] | None = None, prepare: Sequence[str] = ()) -> None:
    """The tests of ``suite`` pass, and so many are not skipped; ``files``, ``prepare``: see ``ordinary.run``."""
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3: apt-get install fuse3")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", suite]
    done = ordinary.run(words, TIMEOUT_SECONDS, files=files, prepare=prepare)
    said = done.stdout[-20_000:] + done.stderr[-5_000:]
    assert done.returncode == 0, said
    counted = re.search(r"(\d+) passed", done.stdout.splitlines()[-1])
    assert counted, said
    assert int(counted[1]) >= at_least, said


@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize(("suite", "at_least"), SUITES.items())
def test_what_an_ordinary_user_can_do(suite: str, at_least: int) -> None:
    if suite == "tests/foreground":
        pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed")
    passes(suite, at_least)


@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
def test_what_subordinate_ids_give() -> None:
    if any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip("needs newuidmap: apt-get install uidmap")
    passes("tests/unprivileged/test_subordinate.py", 5, GRANTED, AS_A_WORKSPACE)


@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize("prepare", [CLOSED, MISSING], ids=["closed", "missing"])
def test_what_is_left_without_the_device(prepare: Sequence[str]) -> None:
    passes("tests/unprivileged/test_closed_device.py", 2, prepare=prepare)
