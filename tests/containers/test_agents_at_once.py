"""Eight agents, each in a sandbox of its own fork of one project: they build, test, checkpoint; one takes it back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.cli.live import Ended, Live
from tests.support.rootfs import add_python

pytestmark = [pytest.mark.fuse]

AGENTS, BREAKS = 8, 3

PROJECT = """
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
"""
TESTS = """
import os, unittest
from project.numbers import fibonacci
class Numbers(unittest.TestCase):
    def test_fibonacci(self):
        self.assertEqual([fibonacci(n) for n in range(8)], [0, 1, 1, 2, 3, 5, 8, 13])
    def test_mine(self):
        self.assertEqual(open("/srv/mine").read(), os.environ["AGENT"])
"""
STEPS = """
set -e
cd /srv
guest=/run/cowfs/cowfs-guest
printf %s "$AGENT" > mine
python3 -m compileall -q project && $guest checkpoint -m built --label built > /dev/null
python3 -m unittest -q tests 2> result-1 && $guest checkpoint -m tested --label tested > /dev/null
if [ "$AGENT" = BREAKS ]; then
    rm -r project tests.py; echo wrong > mine
    ! python3 -m unittest -q tests 2> /dev/null
    $guest restore @tested > /dev/null
fi
for n in 1 2 3 4 5; do echo "def f(): return $n" > project/extra_$n.py; done
python3 -m compileall -q project && $guest checkpoint -m again --label again > /dev/null
python3 -m unittest -q tests 2> result-2
python3 -c "import os; print(len(os.listdir('project/__pycache__')))" > count
"""


def test_every_result_is_right(live: Live) -> None:
    root = Path(live.cowfs("path", "ws"))
    if not add_python(root):
        pytest.skip("needs /usr/bin/python3")
    (root / "srv/project").mkdir(parents=True)
    (root / "srv/project/__init__.py").touch()
    (root / "srv/project/numbers.py").write_text(PROJECT)
    (root / "srv/tests.py").write_text(TESTS)
    live.cowfs("checkpoint", "ws", "--label", "base")
    live.cowfs("fork", "ws@base", "agent", "--count", str(AGENTS))
    ended: dict[int, Ended] = {}

    def work(number: int) -> None:
        script = STEPS.replace("BREAKS", str(BREAKS))
        words = ["--agent", "--allow", "restore", "--env", f"AGENT={number}", "--", "sh", "-c", script]
        ended[number] = live.run("run", f"agent-{number}", *words)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, AGENTS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(1, AGENTS + 1):
        assert ended[number].code == 0, (number, ended[number].err)
        name = f"agent-{number}"
        assert live.cowfs("show", f"{name}:srv/mine") == str(number)
        assert live.cowfs("show", f"{name}:srv/count") == "7"
        for result in ("result-1", "result-2"):
            assert "OK" in live.cowfs("show", f"{name}:srv/{result}")
        labels = [label for each in live.json("log", name) for label in each["labels"]]
        assert [label for label in labels if label != "base"] == ["again", "tested", "built"]
        assert live.cowfs("show", f"{name}@built:srv/mine") == str(number)
    assert not (root / "srv/mine").exists()
