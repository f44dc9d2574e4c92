"""From root: the tests below, and those of mounts, workers and commands, as an ordinary user of this machine."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.support import ordinary
from tests.support.mounting import OBSTACLE, ROOT

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not ROOT or bool(OBSTACLE), reason="only from root, who can become another user"),
]

SUITES = (
    "tests/unprivileged",
    "tests/fuse",
    "tests/foreground",
    "tests/cli/test_session.py",
    "tests/cli/test_outliving.py",
    "tests/cli/test_subtrees.py",
    "tests/workers/test_workers.py",
    "tests/workers/test_replaced.py",
)
TIMEOUT_SECONDS = 600
"""For each of them; a slow machine takes three times as long as a fast one."""


@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_what_an_ordinary_user_can_do(suite: str) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3: apt-get install fuse3")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", suite]
    done = ordinary.run(words, TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout
